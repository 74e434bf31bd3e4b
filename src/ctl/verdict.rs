//! [`Verdict`]: what `ctl status` and `ctl groups` found, and the exit codes that tell scripts of it.

use std::fmt;

/// Requests of clients are refused: a server does not answer, a group has no master, an alarm is raised. Of `placement`:
/// it is not known whether what was asked for came to be.
const REFUSED: u8 = 3;
/// Everything is served, and something is missing: a brain is gone, or does not do its part.
const REDUCED: u8 = 4;

/// What is not well, each once, in the order in which it was found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    refused: Vec<String>,
    reduced: Vec<String>,
}

impl Verdict {
    /// Clients suffer from it.
    pub(super) fn refused(&mut self, what: String) {
        if !self.refused.contains(&what) {
            self.refused.push(what);
        }
    }

    /// They do not, yet.
    pub(super) fn reduced(&mut self, what: String) {
        if !self.reduced.contains(&what) {
            self.reduced.push(what);
        }
    }

    /// What was asked for may come to be yet, or not: it is not known in time.
    pub(super) fn unknown(why: String) -> anyhow::Error {
        Self { refused: vec![why], reduced: Vec::new() }.into()
    }

    pub(super) fn add(&mut self, other: Self) {
        other.refused.into_iter().for_each(|what| self.refused(what));
        other.reduced.into_iter().for_each(|what| self.reduced(what));
    }

    pub(super) fn sentences(&self) -> impl Iterator<Item = &str> {
        self.refused.iter().chain(&self.reduced).map(String::as_str)
    }

    /// # Errors
    /// This, unless everything is well.
    pub(super) fn done(self) -> anyhow::Result<()> {
        match self.refused.is_empty() && self.reduced.is_empty() {
            true => Ok(()),
            false => Err(self.into()),
        }
    }

    /// With which the process ends.
    pub(crate) fn code(&self) -> u8 {
        if self.refused.is_empty() { REDUCED } else { REFUSED }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentences().collect::<Vec<_>>().join("; "))
    }
}

impl std::error::Error for Verdict {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_decides_the_code_and_stands_first() {
        assert!(Verdict::default().done().is_ok());
        let mut verdict = Verdict::default();
        verdict.reduced("a brain is gone".to_owned());
        verdict.reduced("a brain is gone".to_owned());
        assert_eq!((verdict.code(), verdict.to_string().as_str()), (4, "a brain is gone"));
        verdict.refused("no master".to_owned());
        let error = verdict.done().expect_err("not well");
        assert_eq!(error.downcast_ref::<Verdict>().map(Verdict::code), Some(3));
        assert_eq!(error.to_string(), "no master; a brain is gone");
    }
}
