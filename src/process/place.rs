//! [`Place`]: where a program is.

/// Where a program is, for who looks for it.
#[derive(Default)]
pub(crate) struct Place {
    pub clients: Vec<String>,
    pub probes: Vec<String>,
    pub peers: Vec<String>,
    pub data: String,
    pub groups: Vec<String>,
}
