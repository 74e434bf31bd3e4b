//! What one group knows, and everybody who serves it reads: changed by the one task that leads it or follows for it.

pub(crate) mod timeout;
pub(crate) mod alarm;
pub(crate) mod quota;
pub(crate) mod lease;
pub(crate) mod values;
pub(crate) mod changes;
pub(crate) mod pins;
pub(crate) mod beat;
pub(crate) mod claim;
pub(crate) mod upstream;
pub(crate) mod follow;
pub(crate) mod fence;
pub(crate) mod metrics;
pub(crate) mod ended;
pub(crate) mod unplaced;
pub(crate) mod group;
pub(crate) mod tasks;
