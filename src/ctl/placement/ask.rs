//! The two calls, at the first server that can be reached.

use std::fmt;

use anyhow::{Context as _, Result, anyhow, bail};
use kubebrain_net::dial::DialError;
use kubebrain_proto::admin::admin_client::AdminClient;
use kubebrain_proto::admin::placement_command::Verb;
use kubebrain_proto::admin::{PlacementCommand, PlacementQuery, PlacementReport};
use kubebrain_proto::peer::PlacementDocument;
use kubebrain_shared::placement::Placement;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::ctl::servers::{Reach, sentence};

/// A hundred documents of a mebibyte each, and what says so.
const ANSWER_BYTES_MAX: usize = 128 << 20;

/// Why a change was not answered for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// Surely nothing has begun.
    Refused(String),
    /// It may have begun.
    Unknown(String),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) | Self::Unknown(why) => f.write_str(why),
        }
    }
}

/// # Errors
/// No server answers; says why each does not.
pub(super) async fn report(reach: &Reach, query: PlacementQuery) -> Result<PlacementReport> {
    let mut reasons = Vec::new();
    for endpoint in &reach.endpoints {
        let channel = reach.certificates.channel(endpoint).context("--endpoints")?;
        let mut client = AdminClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        match timeout(reach.command_timeout, client.placement(query.clone())).await {
            Ok(Ok(report)) => return Ok(report.into_inner()),
            Ok(Err(status)) => reasons.push(format!("{endpoint}: {}", told(&status))),
            Err(_late) => reasons.push(format!("{endpoint}: no answer in time")),
        }
    }
    bail!("the placement could not be asked for: {}", reasons.join("; "))
}

/// The present state.
pub(super) async fn current(reach: &Reach) -> Result<PlacementReport> {
    report(reach, PlacementQuery::default()).await
}

/// One of the last hundred.
pub(super) async fn numbered(reach: &Reach, number: u64) -> Result<PlacementDocument> {
    let found = report(reach, PlacementQuery { number, ..PlacementQuery::default() }).await?.document;
    found.filter(|document| document.number == number).with_context(|| {
        format!(
            "there is no placement number {number}: `kubebrain ctl placement history` has those there are"
        )
    })
}

/// What a document says.
pub(super) fn table(document: &PlacementDocument) -> Result<Placement> {
    Placement::parse(&document.text).map_err(|errors| {
        anyhow!("placement number {} cannot be read by this program:\n{errors}", document.number)
    })
}

/// Asks for a change: at the next server only where the one before surely has not heard of it.
pub(super) async fn change(reach: &Reach, verb: Verb) -> Result<PlacementReport, Failed> {
    let mut reasons = Vec::new();
    for endpoint in &reach.endpoints {
        let channel = reach.certificates.channel(endpoint);
        let channel = channel.map_err(|error| Failed::Refused(format!("--endpoints: {error:#}")))?;
        let mut client = AdminClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        let asked = client.change_placement(PlacementCommand { verb: Some(verb.clone()) });
        let status = match timeout(reach.command_timeout, asked).await {
            Ok(Ok(report)) => return Ok(report.into_inner()),
            Ok(Err(status)) => status,
            Err(_late) => return Err(Failed::Unknown(format!("{endpoint}: no answer in time"))),
        };
        let why = format!("{endpoint}: {}", told(&status));
        match DialError::of(&status) {
            Some(DialError::Unreachable(_)) => reasons.push(why),
            Some(_) => return Err(Failed::Unknown(why)),
            None if is_unknown(status.code()) => return Err(Failed::Unknown(why)),
            None => return Err(Failed::Refused(why)),
        }
    }
    Err(Failed::Refused(reasons.join("; ")))
}

/// True of what may have happened all the same.
fn is_unknown(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal
    )
}

fn told(status: &Status) -> String {
    match status.code() {
        Code::Unimplemented => {
            "this server is of a version whose placement is a file of each process: upgrade it".to_owned()
        }
        _ => sentence(status),
    }
}
