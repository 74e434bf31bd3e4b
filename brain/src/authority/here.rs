//! What comes over the wire, at a store of this process.

mod repair;

use kubebrain_proto::peer as wire;
use kubebrain_shared::placement::Document;
use kubebrain_shared::range::KeyRange;
use tonic::Status;

pub use self::repair::repair;
use crate::lead::command::{PlaceStep, Placed};
use crate::store::Store;

/// One step of a change of the placement, at its group's master.
///
/// # Errors
/// `InvalidArgument`: it is no step. Else as [`Store::place`].
///
/// # Cancel safety
/// A dropped call may have been carried out.
pub async fn place(store: &Store, request: wire::PlaceRequest) -> Result<wire::PlaceResponse, Status> {
    let read = |wire: wire::PlacementDocument| {
        Document::from_wire(&wire).map_err(|error| Status::invalid_argument(format!("kubebrain: {error}")))
    };
    let missing = || Status::invalid_argument("kubebrain: the step lacks its document");
    let step = match request.step.ok_or_else(missing)? {
        wire::place_request::Step::Ask(next) => PlaceStep::Ask { next: read(next)? },
        wire::place_request::Step::Prepare(wire::PlacePrepare { base, next, known }) => PlaceStep::Prepare {
            base: base.map(read).transpose()?,
            next: read(next.ok_or_else(missing)?)?,
            known,
        },
        wire::place_request::Step::Take(wire::PlaceTake { document, accept_loss }) => {
            PlaceStep::Take { document: read(document.ok_or_else(missing)?)?, accept_loss }
        }
    };
    Ok(placed_to_wire(store.place(step).await?))
}

/// What the store's group goes by, as far as it has heard.
pub fn held(store: &Store) -> wire::PlacementResponse {
    let held = store.state().held.load();
    let numbered = |document: &Document| (document.number() > 0).then(|| document.to_wire());
    let group = &store.state().group;
    wire::PlacementResponse {
        group: group.to_string(),
        alone: held.document().number() == 0 && held.table().owners(&KeyRange::ALL) == [group.clone()],
        current: numbered(held.document()),
        adopted: held.adopted().and_then(|adopted| numbered(&adopted.document)),
    }
}

/// How a group stands after a step, on the wire.
fn placed_to_wire(placed: Placed) -> wire::PlaceResponse {
    wire::PlaceResponse {
        refusal: placed.refusal,
        lineage: placed.id.lineage,
        number: placed.id.number,
        adopted: placed.adopted,
        revision: placed.revision.to_wire(),
        compacted: placed.compacted,
    }
}
