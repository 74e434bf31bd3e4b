//! The engine on TiKV, from flags.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use kubebrain_brain::engine::Engine;
use kubebrain_brain::rows;
use kubebrain_brain_tikv::{Gc, Tikv, Tls};

use crate::flags::{self, Clients};
use crate::run::numbers::Numbers;

/// Beside a client's value, a stored one holds its key and some numbers.
const ROW_BYTES_BESIDE: usize = 64 << 10;

/// Opens it: not more than the intention to connect.
///
/// # Errors
/// Flags that do not go together.
pub(super) fn open(flags: &flags::Store, clients: &Clients, numbers: &Numbers) -> Result<Arc<dyn Engine>> {
    let cluster = &flags.tikv;
    if cluster.pd.is_empty() {
        bail!("--engine tikv: --pd must say where its placement driver is");
    }
    let files = (&cluster.tikv_ca_file, &cluster.tikv_cert_file, &cluster.tikv_key_file);
    let tls = match files {
        (Some(ca), Some(certificate), Some(key)) => {
            Some(Tls { ca: ca.clone(), certificate: certificate.clone(), key: key.clone() })
        }
        (None, None, None) => None,
        _ => bail!("--tikv-ca-file, --tikv-cert-file and --tikv-key-file: give all three or none"),
    };
    let bytes_max = kubebrain_brain_tikv::Config::bounds().value_bytes_max - ROW_BYTES_BESIDE;
    if clients.max_request_bytes > bytes_max {
        bail!(
            "--max-request-bytes {}: a value can be as large as a request, and TiKV holds {bytes_max} bytes of it at most",
            clients.max_request_bytes
        );
    }
    let config = kubebrain_brain_tikv::Config {
        tls,
        gc: (cluster.tikv_gc == flags::Gc::On)
            .then(|| Gc::new(rows::collector(flags.store_prefix.as_bytes()))),
        metrics: kubebrain_brain_tikv::Metrics::new(&numbers.metrics),
        ..kubebrain_brain_tikv::Config::new(cluster.pd.iter().cloned())
    };
    Ok(Arc::new(Tikv::open(config).context("the engine on TiKV cannot be opened")?))
}
