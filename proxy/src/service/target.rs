//! Which groups a request goes to.

use std::sync::Arc;

use tonic::Status;

use crate::classify::{Footprint, Span};
use crate::group::Group;
use crate::table::Table;

/// Where a request goes by one table.
pub(super) enum Target {
    One(Arc<Group>),
    Many(Vec<Arc<Group>>),
}

impl Target {
    /// By the first of its spans; home where it has none.
    pub(super) fn of(table: &Table, footprint: &Footprint) -> Self {
        let mut owners = match footprint.spans.first() {
            Some(span) => table.owners(span),
            None => vec![Arc::clone(table.home())],
        };
        match owners.len() {
            1 => Self::One(owners.remove(0)),
            _ => Self::Many(owners),
        }
    }

    pub(super) fn groups(self) -> Vec<Arc<Group>> {
        match self {
            Self::One(group) => vec![group],
            Self::Many(groups) => groups,
        }
    }
}

/// The one group of all spans.
///
/// # Errors
/// `InvalidArgument` that names two groups and a key of each.
pub(super) fn only_owner(table: &Table, spans: &[Span]) -> Result<Vec<Arc<Group>>, Status> {
    let mut first: Option<(Arc<Group>, &Span)> = None;
    for span in spans {
        for group in table.owners(span) {
            match &first {
                None => first = Some((group, span)),
                Some((owner, _)) if owner.is_same(&group) => {}
                Some((owner, other)) => {
                    return Err(Status::invalid_argument(format!(
                        "kubebrain: a transaction must stay in one group: {:?} belongs to {}, {:?} to {}",
                        other.range(),
                        owner.name(),
                        span.range(),
                        group.name(),
                    )));
                }
            }
        }
    }
    Ok(first.map(|(group, _)| group).into_iter().collect())
}
