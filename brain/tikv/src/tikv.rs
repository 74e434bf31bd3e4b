//! [`Tikv`]: the parts together, as an engine.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kubebrain_brain::engine::error::Poison;
use kubebrain_brain::engine::{Batch, Bounds, CommitError, Engine, ReadError, Snapshot, Span};
use kubebrain_net::tls::TlsClient;
use kubebrain_shared::stop::again;
use tokio::task::JoinHandle;

use crate::commit;
use crate::config::{Config, OpenError};
use crate::gc::Collector;
use crate::link::Link;
use crate::pd::{self, Pd};
use crate::plan::Plan;
use crate::view::{Reader, View};

/// An engine on TiKV.
pub struct Tikv {
    reader: Reader,
    /// What goes on for as long as it is open.
    tasks: Vec<JoinHandle<()>>,
}

impl Tikv {
    /// Ready at once; it connects in the background, and what is asked of it meanwhile waits. Needs a runtime.
    ///
    /// # Errors
    /// See [`OpenError`]: the configuration cannot be used.
    pub fn open(mut config: Config) -> Result<Self, OpenError> {
        for address in &mut config.pd {
            *address = pd::bare(address);
        }
        if let Some(wrong) = config.pd.iter().find(|address| !pd::is_address(address)) {
            return Err(OpenError::Address(wrong.clone()));
        }
        config.pd.sort();
        config.pd.dedup();
        if config.pd.is_empty() {
            return Err(OpenError::Address(String::new()));
        }
        let tls = config.tls.as_ref().map(|tls| TlsClient::load(&tls.ca, &tls.certificate, &tls.key));
        let pd = Pd::new(config.pd.clone(), tls.transpose()?.map(Arc::new));
        let link = Arc::new(Link::new(config, pd));
        let kept = link.clone();
        let keep = again("keeping the connections to TiKV", move || kept.clone().keep());
        let mut tasks = vec![tokio::spawn(keep)];
        let reader = Reader { link: link.clone(), regions: Arc::default() };
        if let Some(gc) = link.config.gc.clone() {
            let reader = reader.clone();
            let collect = move || Collector::new(reader.clone(), gc.clone()).run();
            tasks.push(tokio::spawn(again("collecting garbage in TiKV", collect)));
        }
        Ok(Self { reader, tasks })
    }

    /// Waits until the placement driver and the store that has `key` have answered. [`Engine::waits_for`] says meanwhile
    /// what is missing.
    ///
    /// # Errors
    /// It has stopped for good.
    ///
    /// # Cancel safety
    /// Safe: connecting goes on.
    pub async fn ready(&self, key: &[u8]) -> Result<(), Poison> {
        let link = &self.reader.link;
        link.touch(&Bytes::copy_from_slice(key));
        loop {
            link.ready().await?;
            if let Ok(view) = View::take(self.reader.clone()).await
                && view.get(key).await.is_ok()
            {
                return Ok(());
            }
        }
    }
}

impl Drop for Tikv {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[async_trait]
impl Engine for Tikv {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, ReadError> {
        Ok(Box::new(View::take(self.reader.clone()).await?))
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        batch.check(&self.bounds()).map_err(CommitError::Refused)?;
        if batch.is_empty() {
            return Ok(());
        }
        let plan = Arc::new(Plan::new(batch));
        let link = &self.reader.link;
        // In a task of its own: whoever drops this call leaves a commit that goes on to its end. A panic in the client
        // (it asserts what it believes of answers) is an answer that nobody understood.
        let task = tokio::spawn(commit::commit(self.reader.clone(), plan));
        let outcome = task.await.unwrap_or_else(|died| Err(CommitError::Unknown(died.into())));
        let label = match &outcome {
            Ok(()) => "done",
            Err(CommitError::Conflict { .. }) => "conflict",
            Err(CommitError::Refused(_)) => "refused",
            Err(CommitError::Unknown(_)) => "unknown",
        };
        link.config.metrics.commits.with_label_values(&[label]).inc();
        outcome
    }

    async fn partitions(&self, range: &Span) -> Result<Vec<Bytes>, ReadError> {
        let cuts = self.reader.regions.cuts(&self.reader.link.pd, range).await;
        // A hint: without it a scan is read in one part.
        Ok(cuts.unwrap_or_else(|error| {
            tracing::debug!("where regions begin is not known: {error}");
            Vec::new()
        }))
    }

    fn bounds(&self) -> Bounds {
        Config::bounds()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn waits_for(&self) -> Option<String> {
        self.reader.link.waits_for()
    }

    /// 0: the cluster's disks are not this process's, hold other data too, and are watched where they are.
    fn name(&self) -> &'static str {
        "tikv"
    }

    fn size(&self) -> u64 {
        0
    }
}
