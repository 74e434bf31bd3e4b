//! The span that a task works for at this moment: of the request that it answers, or of a step on the way.

use futures_util::future::Either;
use tokio::task::futures::TaskLocalFuture;
use tokio::task_local;
use tonic::Code;

use super::span::{Place, Span, Step, Work};

task_local! {
    static HERE: Place;
}

/// See [`within`].
pub type Within<F> = Either<TaskLocalFuture<Place, F>, F>;

/// Does `work` for this span, if there is one. What the work leaves to other tasks is not.
pub fn within<F: Future>(span: Option<&Span>, work: F) -> Within<F> {
    match span {
        Some(span) => Either::Left(HERE.scope(span.place().clone(), work)),
        None => Either::Right(work),
    }
}

/// A step of what this task works for begins, if that is traced.
pub fn step(step: Step) -> Option<Span> {
    place(|here| here.begins(Work::Does(step)))
}

/// A step that began with the request which this task works for has ended, if that is traced.
pub fn passed(step: Step, code: Code) {
    place(|here| here.passed(step, code));
}

/// What this task works for is about keys of this kind, if it is traced; the first word counts.
pub fn about(kind: &str) {
    place(|here| here.is_about(kind));
}

pub(super) fn place<T>(see: impl FnOnce(&Place) -> T) -> Option<T> {
    HERE.try_with(see).ok()
}
