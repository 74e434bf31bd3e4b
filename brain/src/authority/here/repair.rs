//! A step of a repair, at a store of this process.

use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use kubebrain_proto::peer as wire;
use kubebrain_proto::peer::repair_done::What;
use kubebrain_proto::peer::repair_request::Step;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::placement::Document;
use kubebrain_shared::range::KeyRange;
use tonic::Status;

use crate::decide::held::Unserved;
use crate::lead::command::{Adoption, WriteError};
use crate::store::{Done, Store, Stray};

/// Keys of a step that are on their way to the writer at once.
const ABREAST: usize = 128;

/// One step of a repair, at its group's master. Repeating one is harmless.
///
/// # Errors
/// `InvalidArgument`: it is no step. `Unavailable`: this is not the master, or what became of it is not known.
///
/// # Cancel safety
/// A dropped call may have been carried out, for some of its keys.
pub async fn repair(store: &Store, request: wire::RepairRequest) -> Result<wire::RepairResponse, Status> {
    let invalid = |what: &str| Status::invalid_argument(format!("kubebrain: {what}"));
    let document = request.document.ok_or_else(|| invalid("the step lacks its document"))?;
    let document = Document::from_wire(&document).map_err(|error| invalid(&error.to_string()))?;
    let mut response = wire::RepairResponse::default();
    let done = match request.step.ok_or_else(|| invalid("the repair lacks its step"))? {
        Step::Find(find) => found(store, &document, find, &mut response).await,
        Step::Look(look) => looked(store, &document, &look, &mut response).await,
        Step::Lease(wire::RepairLease { adopt }) => {
            let adopt = adopt.ok_or_else(|| invalid("the step lacks its lease"))?;
            let remaining = Duration::from_millis(u64::try_from(adopt.remaining_ms).unwrap_or(0));
            let adoption = Adoption { remaining, offered: adopt.offered };
            store.adopt(adopt.id, adopt.ttl, adoption).await.map(drop).map_err(WriteError::Fault)
        }
        Step::Take(wire::RepairTake { keys, overwrite, dry_run }) => {
            let take = |key: Stray| store.take_in(&document, key, overwrite, dry_run);
            response.done = each(keys, take).await?;
            Ok(())
        }
        Step::Drop(wire::RepairDrop { keys }) => {
            let drop = |key: Stray| store.take_out(&document, key.key, key.revision);
            response.done = each(keys, drop).await?;
            Ok(())
        }
    };
    match done {
        Ok(()) => {}
        Err(WriteError::Unserved(Unserved::NotOwner(why))) => response.refusal = why,
        Err(error) => return Err(error.into()),
    }
    response.revision = store.state().committed().to_wire();
    Ok(response)
}

async fn found(
    store: &Store,
    document: &Document,
    find: wire::RepairFind,
    response: &mut wire::RepairResponse,
) -> Result<(), WriteError> {
    let end = (!find.end.is_empty()).then_some(find.end);
    let range = KeyRange::new(find.from, end);
    let keys_max = usize::try_from(find.keys_max).ok().and_then(NonZeroUsize::new);
    let keys_max = keys_max.unwrap_or(NonZeroUsize::MIN);
    let found = store.strays(document, &range, keys_max, find.values).await?;
    response.keys = found.strays.into_iter().map(to_wire).collect();
    response.next = found.next.unwrap_or_default();
    Ok(())
}

async fn looked(
    store: &Store,
    document: &Document,
    look: &wire::RepairLook,
    response: &mut wire::RepairResponse,
) -> Result<(), WriteError> {
    let looked = store.look(document, &look.keys, &look.units).await?;
    response.keys = looked.keys.into_iter().map(to_wire).collect();
    let unit = |(prefix, keys): (Bytes, u64)| wire::RepairUnit { prefix, keys };
    response.units = looked.units.into_iter().map(unit).collect();
    Ok(())
}

/// Carries each key out by itself: what one of them cannot is no reason to leave the others.
///
/// # Errors
/// What says nothing about the key: the store is no master any more, or has not answered in time.
async fn each<F>(
    keys: Vec<wire::RepairKey>,
    carry_out: impl Fn(Stray) -> F,
) -> Result<Vec<wire::RepairDone>, Status>
where
    F: Future<Output = Result<Done, WriteError>>,
{
    let all: Vec<_> =
        stream::iter(keys.into_iter().map(|key| carry_out(from_wire(key)))).buffered(ABREAST).collect().await;
    let done = |(what, why): (What, String)| wire::RepairDone { what: what.into(), why };
    all.into_iter()
        .map(|outcome| {
            Ok(done(match outcome {
                Ok(Done::Done) => (What::Done, String::new()),
                Ok(Done::Same) => (What::Same, String::new()),
                Ok(Done::Other) => (What::Other, String::new()),
                Err(WriteError::Unserved(why)) => (What::Left, why.to_string()),
                Err(WriteError::TooLarge(why)) => (What::Left, why),
                Err(WriteError::Fault(fault @ (Fault::LeaseNotFound | Fault::NoSpace))) => {
                    (What::Left, Status::from(fault).message().to_owned())
                }
                Err(error) => return Err(error.into()),
            }))
        })
        .collect()
}

fn to_wire(stray: Stray) -> wire::RepairKey {
    let Stray { key, revision, is_deleted, lease, value } = stray;
    wire::RepairKey { key, revision: revision.cast_signed(), deleted: is_deleted, lease, value }
}

fn from_wire(key: wire::RepairKey) -> Stray {
    let wire::RepairKey { key, revision, deleted, lease, value } = key;
    Stray { key, revision: revision.cast_unsigned(), is_deleted: deleted, lease, value }
}
