//! Commits through the engine beside the same commits by the bare client, in turn: `commits PD [SECONDS]`. Each inserts
//! one row under the condition that it is absent, as a batch's record is, and puts rows of 1 KiB.

use std::sync::Arc;
use std::time::Duration;

use kubebrain_brain::engine::{Batch, Engine};
use kubebrain_brain_tikv::{Config, Tikv};
use tikv_client::transaction::HeartbeatOption;
use tikv_client::{CheckLevel, TransactionClient, TransactionOptions};
use tokio::task::JoinSet;
use tokio::time::Instant;

const ROW_BYTES: usize = 1024;
const ROUNDS: usize = 3;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
enum Way {
    Engine(Arc<Tikv>),
    Client(Arc<Vec<TransactionClient>>),
}

impl Way {
    async fn commit(&self, committer: usize, rows: usize) -> Result<(), Failure> {
        let record = format!("commits/record/{:032x}", rand::random::<u128>());
        let row = |row: usize| format!("commits/row/{committer:02}/{row:04}");
        match self {
            Self::Engine(engine) => {
                let mut batch = Batch::new();
                batch.absent(record.clone()).put(record, "r");
                for number in 0..rows {
                    batch.put(row(number), vec![b'v'; ROW_BYTES]);
                }
                Ok(engine.commit(batch).await?)
            }
            Self::Client(clients) => {
                let options = TransactionOptions::new_optimistic()
                    .drop_check(CheckLevel::None)
                    .heartbeat_option(HeartbeatOption::NoHeartbeat);
                let small = rows * (ROW_BYTES + 20) + 60 < 16 << 10;
                let options = if small { options.try_one_pc() } else { options };
                let client = &clients[committer % clients.len()];
                let mut transaction = client.begin_with_options(options).await?;
                transaction.insert(record.into_bytes(), b"r".to_vec()).await?;
                for number in 0..rows {
                    transaction.put(row(number).into_bytes(), vec![b'v'; ROW_BYTES]).await?;
                }
                transaction.commit().await?;
                Ok(())
            }
        }
    }

    /// Commits a second, and the median of one.
    async fn run(&self, committers: usize, rows: usize, time: Duration) -> Result<(f64, Duration), Failure> {
        let began = Instant::now();
        let mut running = JoinSet::new();
        for committer in 0..committers {
            let way = self.clone();
            running.spawn(async move {
                let mut took = Vec::new();
                while began.elapsed() < time {
                    let begins = Instant::now();
                    way.commit(committer, rows).await?;
                    took.push(begins.elapsed());
                }
                Ok::<_, Failure>(took)
            });
        }
        let mut took = Vec::new();
        while let Some(some) = running.join_next().await {
            took.extend(some??);
        }
        took.sort_unstable();
        let median = took.get(took.len() / 2).copied().unwrap_or_default();
        Ok((took.len() as f64 / began.elapsed().as_secs_f64(), median))
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let pd = arguments.next().ok_or("commits PD [SECONDS]")?;
    let time = Duration::from_secs(arguments.next().map_or(Ok(2), |text| text.parse::<u64>())?);
    let config = Config::new([pd.clone()]);
    let mut clients = Vec::new();
    for _ in 0..config.clients {
        clients.push(TransactionClient::new(vec![pd.clone()]).await?);
    }
    let engine = Tikv::open(config)?;
    engine.ready(b"commits").await?;
    let ways = [Way::Engine(Arc::new(engine)), Way::Client(Arc::new(clients))];
    println!("| rows of 1 KiB | committers | engine, commits/s | p50 | client, commits/s | p50 | ratio |");
    println!("|---|---|---|---|---|---|---|");
    for rows in [1, 10, 15, 20, 100, 240] {
        for committers in [1, 4, 16] {
            let mut best = [(0.0, Duration::ZERO); 2];
            for _ in 0..ROUNDS {
                for (way, best) in ways.iter().zip(&mut best) {
                    let ran = way.run(committers, rows, time).await?;
                    if ran.0 > best.0 {
                        *best = ran;
                    }
                }
            }
            let [engine, client] = best;
            println!(
                "| {rows} | {committers} | {:.0} | {:.2} ms | {:.0} | {:.2} ms | {:.2} |",
                engine.0,
                engine.1.as_secs_f64() * 1e3,
                client.0,
                client.1.as_secs_f64() * 1e3,
                engine.0 / client.0
            );
        }
    }
    Ok(())
}
