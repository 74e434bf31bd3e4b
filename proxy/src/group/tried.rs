//! [`Tried`]: which nodes of a group a request has been sent to.

/// Where a request has been, so that it is not sent there twice. The sixty-fourth and all above count as one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tried {
    /// One bit for each node.
    pub(super) nodes: u64,
    pub(super) last: Option<usize>,
    /// The node that was named as master by one that is not.
    pub(crate) named: Option<usize>,
    /// The node that is asked first, where it serves reads.
    pub(crate) preferred: Option<usize>,
}

impl Tried {
    pub(crate) fn add(&mut self, index: usize) {
        self.nodes |= bit(index);
        self.last = Some(index);
    }

    /// Only the node that was tried last.
    pub(crate) fn of_last(&self) -> Self {
        let mut tried = Self::default();
        self.last.into_iter().for_each(|last| tried.add(last));
        tried
    }

    pub(crate) fn has(&self, index: usize) -> bool {
        self.nodes & bit(index) != 0
    }

    /// True if a node was tried.
    pub(crate) const fn has_begun(&self) -> bool {
        self.nodes != 0
    }
}

const fn bit(index: usize) -> u64 {
    if index < 63 { 1 << index } else { 1 << 63 }
}
