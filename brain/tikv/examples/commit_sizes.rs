//! How long one commit takes by the size of its batch: `commit_sizes PD [ROW_BYTES]`. Where the time a byte begins to
//! grow, batches should end: see `docs/adr/0009-tikv.md`.

use std::time::Duration;

use kubebrain_brain::engine::{Batch, Engine};
use kubebrain_brain_tikv::{Config, Tikv};
use tokio::time::Instant;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let pd = arguments.next().ok_or("commit_sizes PD [ROW_BYTES]")?;
    let row_bytes = arguments.next().map_or(Ok(1024), |text| text.parse::<usize>())?;
    let engine = Tikv::open(Config { commit_deadline: Duration::from_secs(120), ..Config::new([pd]) })?;
    engine.ready(b"sizes").await?;
    println!("{:>10} {:>7} {:>12} {:>12} {:>10}", "bytes", "rows", "median ms", "longest ms", "MiB/s");
    for exponent in 14..=22 {
        let bytes = 1_usize << exponent;
        let rows = (bytes / row_bytes).max(1);
        let mut took = Vec::new();
        for round in 0..if exponent < 20 { 15 } else { 5 } {
            let mut batch = Batch::new();
            batch.absent(format!("sizes/{bytes}/{:x}", rand::random::<u64>()));
            for row in 0..rows {
                batch.put(format!("sizes/{bytes}/{round}/{row:08}"), vec![b'v'; row_bytes]);
            }
            let began = Instant::now();
            engine.commit(batch).await?;
            took.push(began.elapsed());
            // What is left of a commit goes on behind its answer: the locks of all but one row.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        took.sort_unstable();
        let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
        let speed = bytes as f64 / median.as_secs_f64() / f64::from(1 << 20);
        println!(
            "{bytes:>10} {rows:>7} {:>12.1} {:>12.1} {speed:>10.1}",
            median.as_secs_f64() * 1e3,
            longest.as_secs_f64() * 1e3
        );
    }
    Ok(())
}
