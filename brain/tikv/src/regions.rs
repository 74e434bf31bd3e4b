//! [`Regions`]: where regions end, as PD said some time ago.
//!
//! The client asks every region of a scan for the whole limit at once, so scans are cut at these boundaries. A wrong
//! boundary is harmless: the client knows by itself which regions a range has.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_brain::engine::Span;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::pd::{Pd, PdError, Region};

/// What is older is asked for again.
const AGE_MAX: Duration = Duration::from_secs(60);
/// Asked for at a time.
const FETCHED: i32 = 128;
/// Kept; all are forgotten when there are more.
const KEPT_MAX: usize = 100_000;
/// Given as partitions.
const PARTITIONS_MAX: usize = 1024;

/// By start.
#[derive(Default)]
pub(crate) struct Regions {
    known: RwLock<BTreeMap<Bytes, (Region, Instant)>>,
}

impl Regions {
    /// Where the region of `key` ends, if that is known or can be learnt at once.
    pub(crate) async fn end(&self, pd: &Pd, key: &[u8]) -> Option<Bytes> {
        if let Some(region) = self.cached(key) {
            return region.end;
        }
        match pd.regions(key, None, FETCHED).await {
            Ok(regions) => {
                self.learn(regions);
                self.cached(key)?.end
            }
            Err(error) => {
                tracing::debug!("where regions end is not known: {error}");
                None
            }
        }
    }

    /// In how many regions some keys are; `None` if that is not known of all of them.
    pub(crate) fn count(&self, keys: &[&Bytes]) -> Option<usize> {
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        let mut count = 0;
        let mut within: Option<Region> = None;
        for key in keys {
            if within.as_ref().is_none_or(|region| region.end.as_ref().is_some_and(|end| key >= end)) {
                count += 1;
                within = Some(self.cached(key)?);
            }
        }
        Some(count)
    }

    /// Boundaries inside the span.
    pub(crate) async fn cuts(&self, pd: &Pd, span: &Span) -> Result<Vec<Bytes>, PdError> {
        let mut cuts = Vec::new();
        let mut start = span.start.clone();
        if span.is_empty() {
            return Ok(cuts);
        }
        loop {
            let regions = pd.regions(&start, span.end.as_deref(), FETCHED).await?;
            let next = regions.last().and_then(|region| region.end.clone());
            for region in &regions {
                if region.start > span.start
                    && span.contains(&region.start)
                    && cuts.last() < Some(&region.start)
                {
                    cuts.push(region.start.clone());
                }
            }
            let got = regions.len();
            self.learn(regions);
            match next {
                Some(next) if got >= FETCHED as usize && span.contains(&next) && next > start => start = next,
                _ => break,
            }
        }
        // Evenly thinned out: parts of one size are read in one time.
        let keep = cuts.len().div_ceil(PARTITIONS_MAX).max(1);
        Ok(cuts.into_iter().step_by(keep).collect())
    }

    fn cached(&self, key: &[u8]) -> Option<Region> {
        let known = self.known.read();
        let (_, (region, at)) = known
            .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)))
            .next_back()?;
        let holds = region.end.as_ref().is_none_or(|end| *key < end[..]);
        (holds && at.elapsed() < AGE_MAX).then(|| region.clone())
    }

    fn learn(&self, regions: Vec<Region>) {
        let now = Instant::now();
        let mut known = self.known.write();
        if known.len() > KEPT_MAX {
            known.clear();
        }
        for region in regions {
            let inside =
                |start: &Bytes| *start >= region.start && region.end.as_ref().is_none_or(|end| start < end);
            let gone: Vec<Bytes> = known
                .range(region.start.clone()..)
                .map(|(start, _)| start.clone())
                .take_while(|start| inside(start))
                .collect();
            for start in gone {
                known.remove(&start);
            }
            known.insert(region.start.clone(), (region, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(start: &'static str, end: Option<&'static str>) -> Region {
        Region { start: start.into(), end: end.map(Bytes::from) }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_learnt_later_replaces_what_overlaps() {
        let regions = Regions::default();
        regions.learn(vec![region("", Some("m")), region("m", None)]);
        assert_eq!(regions.cached(b"a"), Some(region("", Some("m"))));
        let count = |keys: &[&'static str]| {
            let keys: Vec<Bytes> = keys.iter().map(|key| Bytes::from(*key)).collect();
            regions.count(&keys.iter().collect::<Vec<_>>())
        };
        assert_eq!(
            [count(&["a", "b"]), count(&["n", "a"]), count(&["m"]), count(&[])],
            [1, 2, 1, 0].map(Some)
        );
        regions.learn(vec![region("c", Some("p"))]);
        assert_eq!(regions.cached(b"n"), Some(region("c", Some("p"))));
        assert_eq!(regions.cached(b"a"), Some(region("", Some("m"))), "stale, and only a hint");
        assert_eq!(regions.cached(b"q"), None, "the region behind it has gone");
        regions.learn(vec![region("", None)]);
        assert_eq!(regions.cached(b"q"), Some(region("", None)));
        tokio::time::advance(AGE_MAX).await;
        assert_eq!(regions.cached(b"q"), None);
        assert_eq!(count(&["a", "z"]), None, "nothing is known");
    }
}
