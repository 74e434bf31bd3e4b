//! Reads: pages of live entries at one revision, stable while writes go on.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use kubebrain_net::budget::Budget;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;

use super::cut::{Cut, Cutter};
use super::fault::read_fault;
use crate::decide::answer::{Entry, OVERHEAD_BYTES, RangeAnswer, weight};
use crate::decide::evaluate::select;
use crate::request::{Range, ReadAt};
use crate::rows::version::Version;
use crate::state::group::GroupState;
use crate::state::pins::Pin;
use crate::state::values::ValueError;

/// Entries taken with the index locked: short enough that no write waits long.
pub(super) const PAGE_MAX: usize = 1000;

/// One read at one revision.
pub(crate) struct Reader<'a> {
    state: &'a GroupState,
    /// The revision that is read.
    pub at: Revision,
    /// The header's revision: of the moment the read began.
    pub header: Revision,
    /// Keeps what a read of "now" needs from being swept.
    pin: Option<Pin<'a>>,
    /// Which contents of the group it reads: where they are replaced meanwhile, it begins anew.
    generation: u64,
    /// It has begun on a slave, whose master's sweep knows nothing of it.
    follows: bool,
    /// What it reads is gone; it may begin anew.
    gone: AtomicBool,
}

/// Why a read was not done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unread {
    /// What it read is gone from under it: it begins anew, after a fence.
    Gone,
    /// What a client is told.
    Fault(Fault),
}

/// How far a read has come.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    /// What is left.
    keys: Option<KeyRange>,
    /// Entries still wanted.
    wanted: usize,
}

impl<'a> Reader<'a> {
    /// Begins a read.
    pub(crate) fn new(state: &'a GroupState, at: ReadAt) -> Result<Self, Fault> {
        // First of all: what is replaced from here on shows.
        let generation = state.generation();
        let (follows, gone) = (state.is_slave(), AtomicBool::new(false));
        if !state.follow.is_loaded() {
            return Err(Fault::LeaderChanged);
        }
        match at {
            ReadAt::Latest => {
                let pin = state.pin();
                let at = pin.revision();
                Ok(Self { state, at, header: at, pin: Some(pin), generation, follows, gone })
            }
            ReadAt::Revision(at) => {
                let header = state.committed();
                if at > header {
                    return Err(Fault::FutureRevision);
                }
                let reader = Self { state, at, header, pin: None, generation, follows, gone };
                reader.check()?;
                Ok(reader)
            }
        }
    }

    /// Goes on at the same revision without keeping it from being swept: a client that takes its stream slowly gets
    /// "compacted" one day, as from etcd, instead of holding up history for ever.
    pub(crate) fn unpinned(self) -> Self {
        Self { pin: None, ..self }
    }

    /// True where what it reads may be gone for others' reasons than a compaction that is known here.
    pub(crate) const fn may_be_gone(&self) -> bool {
        self.follows
    }

    /// What its error means.
    pub(crate) fn unread(&self, fault: Fault) -> Unread {
        if self.gone.load(Ordering::Relaxed) { Unread::Gone } else { Unread::Fault(fault) }
    }

    /// A read at a named revision ends when it is compacted under it, and any when all is replaced under it.
    fn check(&self) -> Result<(), Fault> {
        if self.generation != self.state.generation() {
            self.gone.store(true, Ordering::Relaxed);
            return Err(Fault::LeaderChanged);
        }
        match self.pin.is_none() && self.state.is_compacted(self.at) {
            true => Err(Fault::Compacted),
            false => Ok(()),
        }
    }

    /// The next entries, without values.
    fn step(&self, cursor: &mut Cursor, max: usize) -> Vec<Entry> {
        let Some(keys) = cursor.keys.take() else { return Vec::new() };
        let max = max.min(cursor.wanted);
        let index = self.state.index.read();
        let mut live = index.live(&keys, self.at.get());
        let entry = |(key, version): (&Bytes, Version)| Entry { key: key.clone(), version, kv: None };
        let entries: Vec<_> = live.by_ref().take(max).map(entry).collect();
        cursor.wanted -= entries.len();
        // The rest begins with what is there, so a cursor that is not done always has a next entry.
        cursor.keys = live.next().map(|(next, _)| KeyRange::new(next.clone(), keys.end().cloned()));
        entries
    }

    /// How many are left in the range, whatever the limit.
    async fn count(&self, keys: Option<KeyRange>) -> Result<usize, Fault> {
        let mut cursor = Cursor { keys, wanted: usize::MAX };
        let mut count = 0;
        while let Some(keys) = cursor.keys.take() {
            count += self.count_page(&mut cursor, &keys);
            if cursor.keys.is_some() {
                tokio::task::yield_now().await;
            }
        }
        self.check()?;
        Ok(count)
    }

    fn count_page(&self, cursor: &mut Cursor, keys: &KeyRange) -> usize {
        let index = self.state.index.read();
        let mut live = index.live(keys, self.at.get());
        let page = live.by_ref().take(PAGE_MAX).count();
        cursor.keys = live.next().map(|(next, _)| KeyRange::new(next.clone(), keys.end().cloned()));
        page
    }

    /// What the entries of a range take in memory, values included; counting ends above `enough`. All but the first page
    /// is counted in turn.
    ///
    /// # Errors
    /// [`Fault::Compacted`].
    pub(crate) async fn weigh(&self, range: &Range, enough: u64, answers: &Budget) -> Result<u64, Fault> {
        let mut bytes = 0;
        self.walk(range, answers, |key, version| {
            bytes += if range.keys_only { key.len() as u64 + OVERHEAD_BYTES } else { weight(version) };
            bytes < enough
        })
        .await?;
        Ok(bytes.min(enough))
    }

    /// As [`Self::weigh`] of all of a plain range; and where its rows take at least `from` bytes in an answer, how it is cut.
    ///
    /// # Errors
    /// As [`Self::weigh`].
    pub(crate) async fn cut(
        &self,
        range: &Range,
        from: u64,
        answers: &Budget,
    ) -> Result<(u64, Option<Cut>), Fault> {
        let mut cutter = Cutter::new(&self.state.layout, range.keys_only, from);
        let mut bytes = 0;
        let rest = self
            .walk(range, answers, |key, version| {
                bytes += if range.keys_only { key.len() as u64 + OVERHEAD_BYTES } else { weight(version) };
                cutter.add(key, version);
                true
            })
            .await?;
        if !cutter.cuts() {
            return Ok((bytes, None));
        }
        let left = self.count(rest.clone()).await?;
        let rest = rest.as_ref().map(KeyRange::start);
        Ok((bytes, Some(cutter.finish(&range.keys, rest, left))))
    }

    /// Shows the entries that a range gives to `see`, in order and without values, until that has seen enough; gives the
    /// keys behind them. Nothing is shown of what is only counted.
    async fn walk(
        &self,
        range: &Range,
        answers: &Budget,
        mut see: impl FnMut(&Bytes, &Version) -> bool,
    ) -> Result<Option<KeyRange>, Fault> {
        if range.count_only && range.is_plain() {
            return Ok(None);
        }
        let mut cursor = Cursor { keys: Some(range.keys.clone()), wanted: self.wanted(range) };
        let (mut goes_on, mut turn) = (true, None);
        while goes_on && cursor.wanted > 0 {
            let Some(keys) = cursor.keys.take() else { break };
            {
                let index = self.state.index.read();
                let mut live = index.live(&keys, self.at.get());
                for (key, version) in live.by_ref().take(PAGE_MAX.min(cursor.wanted)) {
                    cursor.wanted -= 1;
                    goes_on &= see(key, &version);
                }
                cursor.keys = live.next().map(|(next, _)| KeyRange::new(next.clone(), keys.end().cloned()));
            }
            if cursor.keys.is_some() && turn.is_none() {
                turn = Some(answers.turn(self.state.kinds.of_range(&range.keys).id()).await);
            } else if cursor.keys.is_some() {
                tokio::task::yield_now().await;
            }
        }
        self.check()?;
        Ok(cursor.keys)
    }

    fn wanted(&self, range: &Range) -> usize {
        range.limit.filter(|_| range.is_plain()).map_or(usize::MAX, |limit| limit.get())
    }

    async fn fill(&self, entries: &mut [Entry], keys_only: bool) -> Result<(), Fault> {
        if keys_only {
            entries.iter_mut().for_each(Entry::strip);
        } else if let Err(error) = self.state.values.fill(entries).await {
            self.check()?;
            if self.follows && matches!(error, ValueError::Missing { .. }) {
                // Compacted, and taken out, before this slave has heard of it.
                self.gone.store(true, Ordering::Relaxed);
                return Err(Fault::Compacted);
            }
            return Err(read_fault(self.state, &error));
        }
        self.check()
    }

    /// Everything at once.
    pub(crate) async fn range(&self, range: &Range) -> Result<RangeAnswer, Fault> {
        if range.count_only && range.is_plain() {
            return Ok(RangeAnswer {
                count: self.count(Some(range.keys.clone())).await?,
                ..RangeAnswer::default()
            });
        }
        let mut cursor = Cursor { keys: Some(range.keys.clone()), wanted: self.wanted(range) };
        let mut entries = Vec::new();
        while cursor.keys.is_some() && cursor.wanted > 0 {
            let mut page = self.step(&mut cursor, PAGE_MAX);
            if range.is_plain() {
                self.fill(&mut page, range.keys_only).await?;
            }
            match entries.is_empty() {
                true => entries = page,
                false => entries.extend(page),
            }
            if cursor.keys.is_some() {
                tokio::task::yield_now().await;
            }
        }
        if range.is_plain() {
            let left = self.count(cursor.keys).await?;
            return Ok(RangeAnswer { count: entries.len() + left, more: left > 0, entries, by_value: None });
        }
        let mut answer = select(entries, range);
        for page in answer.entries.chunks_mut(PAGE_MAX) {
            if page.iter().any(|entry| entry.kv.is_none()) {
                self.fill(page, false).await?;
            }
        }
        answer.settle();
        Ok(answer)
    }

    /// Begins a streamed read.
    pub(crate) fn cursor(&self, range: &Range) -> Cursor {
        Cursor { keys: Some(range.keys.clone()), wanted: range.limit.map_or(usize::MAX, |limit| limit.get()) }
    }

    /// The entries of the next chunk, none after the last.
    pub(crate) async fn chunk(
        &self,
        cursor: &mut Cursor,
        size: usize,
        keys_only: bool,
    ) -> Result<Vec<Entry>, Fault> {
        let mut entries = self.step(cursor, size);
        self.fill(&mut entries, keys_only).await?;
        Ok(entries)
    }

    /// What is left behind a cursor that wants no more.
    pub(crate) async fn left(&self, cursor: &mut Cursor) -> Result<usize, Fault> {
        self.count(cursor.keys.take()).await
    }
}

impl Cursor {
    pub(crate) fn is_done(&self) -> bool {
        self.keys.is_none() || self.wanted == 0
    }
}
