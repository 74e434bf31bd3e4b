//! A key is changed at most once on each path through a transaction.
//!
//! As in etcd: two puts of a key, or a put inside a deleted range, are refused where one execution could reach both;
//! the two branches of a transaction exclude each other; overlapping deletions are fine.

use std::collections::BTreeSet;

use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::range::KeyRange;

use super::op::{Op, Txn};

pub(super) fn puts_are_distinct(txn: &Txn) -> Result<(), Fault> {
    branch(&txn.success)?;
    branch(&txn.failure)?;
    Ok(())
}

/// What the operations of one branch may change, on any path through nested transactions.
#[derive(Default)]
struct Changes {
    puts: BTreeSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Changes {
    fn deletes_a_put_of(&self, other: &Self) -> bool {
        self.deletes.iter().any(|range| {
            other.puts.range(range.start().clone()..).next().is_some_and(|key| range.contains(key))
        })
    }

    fn absorb(&mut self, other: Self) {
        self.puts.extend(other.puts);
        self.deletes.extend(other.deletes);
    }
}

fn branch(ops: &[Op]) -> Result<Changes, Fault> {
    let mut all = Changes::default();
    for op in ops {
        let mut changes = Changes::default();
        match op {
            Op::Range(_) => continue,
            Op::Put(put) => {
                changes.puts.insert(put.key.clone());
            }
            Op::Delete(delete) => changes.deletes.push(delete.keys.clone()),
            Op::Txn(txn) => {
                changes = branch(&txn.success)?;
                changes.absorb(branch(&txn.failure)?);
            }
        }
        let twice = !all.puts.is_disjoint(&changes.puts);
        if twice || all.deletes_a_put_of(&changes) || changes.deletes_a_put_of(&all) {
            return Err(Fault::DuplicateKey);
        }
        all.absorb(changes);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Delete, Given, Put};

    fn put(key: &'static str) -> Op {
        let key = Bytes::from_static(key.as_bytes());
        Op::Put(Put { key, value: Given::New(Bytes::new()), lease: Given::New(0), prev_kv: false })
    }

    fn delete(from: &'static str, to: &'static str) -> Op {
        let keys =
            KeyRange::from_wire(Bytes::from_static(from.as_bytes()), Bytes::from_static(to.as_bytes()));
        Op::Delete(Delete { keys, prev_kv: false })
    }

    fn nested(success: Vec<Op>, failure: Vec<Op>) -> Op {
        Op::Txn(Txn { compares: vec![], success, failure })
    }

    #[test]
    fn a_key_changes_once_on_each_path() {
        let cases: [(&str, Vec<Op>, bool); 8] = [
            ("two keys", vec![put("a"), put("b")], true),
            ("one key twice", vec![put("a"), put("a")], false),
            ("put in a deleted range", vec![delete("a", "c"), put("b")], false),
            ("delete of a put", vec![put("b"), delete("a", "\0")], false),
            ("overlapping deletes", vec![delete("a", "c"), delete("b", "d")], true),
            ("branches exclude each other", vec![nested(vec![put("a")], vec![put("a")])], true),
            ("nested beside outer", vec![nested(vec![put("a")], vec![]), put("a")], false),
            ("nested delete beside outer put", vec![put("a"), nested(vec![], vec![delete("a", "")])], false),
        ];
        for (name, success, legal) in cases {
            let txn = Txn { compares: vec![], success, failure: vec![put("a")] };
            assert_eq!(puts_are_distinct(&txn).is_ok(), legal, "{name}");
        }
    }
}
