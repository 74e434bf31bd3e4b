//! Which documents are believed, and whose word it takes. Plain: no I/O, no time.

use kubebrain_shared::placement::{Document, DocumentId};

use crate::config::Config;

/// Who has told a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Speaker {
    /// A brain of the home group: of the table's, where there is one, and of its own document's, by its own words.
    pub(super) is_home: bool,
    /// Its group's master, as far as is known.
    pub(super) is_master: bool,
}

/// True if a brain that says that it goes by `said` should be asked for it.
pub(super) fn is_worth_asking(now: DocumentId, said: DocumentId, speaker: Speaker) -> bool {
    match said.number {
        0 => false,
        _ if now.number == 0 => true,
        number if said.lineage == now.lineage => number > now.number,
        _ => speaker.is_home,
    }
}

/// True if `next` takes the place of what holds `now`. Lineages that were left are in `left`: brains that have not heard of
/// the next one may go on telling them, but no master goes back.
pub(super) fn judge(
    config: &Config,
    now: Option<&Document>,
    left: &[u64],
    next: &Document,
    speaker: Speaker,
) -> bool {
    let Some(now) = now.filter(|now| now.number() > 0) else { return next.number() > 0 };
    if config.planted(|seams| seams.believe_older) {
        return next.number() > 0 && next.id() != now.id();
    }
    if config.planted(|seams| seams.compare_content) && next.table().owns_alike(now.table()) {
        return false;
    }
    let (from, to) = (now.id(), next.id());
    if to.number == 0 {
        return false;
    }
    if to.lineage == from.lineage {
        return to.number > from.number;
    }
    let was_left = to.lineage == now.replaces() || left.contains(&to.lineage);
    speaker.is_home && next.table().home() == now.table().home() && (speaker.is_master || !was_left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TABLE, document};

    #[test]
    fn a_number_only_rises_and_another_lineage_is_homes_to_say() {
        let config = Config::default();
        let slave = Speaker { is_home: true, is_master: false };
        let master = Speaker { is_home: true, is_master: true };
        let stranger = Speaker { is_home: false, is_master: true };
        let now = document(TABLE, 7, 3);
        let other_home = TABLE.replace("home: core", "home: pods");
        for (name, text, lineage, number, left, speaker, expected) in [
            ("the same", TABLE, 7, 3, &[][..], master, false),
            ("a newer one, by anybody", TABLE, 7, 4, &[], stranger, true),
            ("an older one, also by home's master", TABLE, 7, 2, &[], master, false),
            ("another lineage by home", TABLE, 8, 1, &[], slave, true),
            ("another lineage by another group", TABLE, 8, 9, &[], stranger, false),
            ("a lineage that was left, by a slave that has not heard", TABLE, 6, 9, &[6], slave, false),
            ("a lineage that was left, by the master: a restore", TABLE, 6, 9, &[6], master, true),
            ("another cluster's", &other_home, 8, 9, &[], master, false),
            ("none", TABLE, 0, 0, &[], master, false),
        ] {
            let next = document(text, lineage, number);
            assert_eq!(judge(&config, Some(&now), left, &next, speaker), expected, "{name}");
        }
        let first = document(TABLE, 9, 1);
        assert!(judge(&config, None, &[], &first, stranger), "anything is better than nothing");
        assert!(judge(&config, Some(&document(TABLE, 0, 0)), &[], &first, stranger));
        assert!(!judge(&config, None, &[], &document(TABLE, 0, 0), master));
    }

    #[test]
    fn only_who_may_know_more_is_asked() {
        let id = |lineage, number| DocumentId { lineage, number };
        let home = Speaker { is_home: true, is_master: false };
        let other = Speaker::default();
        for (now, said, speaker, expected) in [
            (id(7, 3), id(7, 3), home, false),
            (id(7, 3), id(7, 4), other, true),
            (id(7, 3), id(7, 2), home, false),
            (id(7, 3), id(8, 1), home, true),
            (id(7, 3), id(8, 1), other, false),
            (id(7, 3), id(0, 0), home, false),
            (id(0, 0), id(8, 1), other, true),
        ] {
            assert_eq!(is_worth_asking(now, said, speaker), expected, "{now} {said} {speaker:?}");
        }
    }
}
