//! Wire requests to checked ones. The order of checks is etcd's: clients see the first failure.

use std::num::NonZeroUsize;

use bytes::Bytes;
use kubebrain_proto::etcdserverpb as wire;
use kubebrain_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kubebrain_proto::etcdserverpb::request_op::Request as WireOp;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;

use super::check;
use super::op::{
    Compare, Comparison, Delete, Filter, Given, Op, Operand, Put, Range, ReadAt, SortTarget, Txn,
};

/// Bounds on requests.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Operations in each list of a transaction. etcd's default is 128.
    pub txn_ops_max: usize,
    /// Bytes of one request. etcd's default is 1.5 MiB.
    pub request_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { txn_ops_max: 128, request_bytes_max: 3 << 19 }
    }
}

impl TryFrom<wire::RangeRequest> for Range {
    type Error = Fault;

    fn try_from(request: wire::RangeRequest) -> Result<Self, Fault> {
        if request.key.is_empty() {
            return Err(Fault::EmptyKey);
        }
        let order = wire::range_request::SortOrder::try_from(request.sort_order);
        let target = wire::range_request::SortTarget::try_from(request.sort_target);
        let (Ok(order), Ok(target)) = (order, target) else { return Err(Fault::InvalidSortOption) };
        let target = match target {
            wire::range_request::SortTarget::Key => SortTarget::Key,
            wire::range_request::SortTarget::Version => SortTarget::Version,
            wire::range_request::SortTarget::Create => SortTarget::Create,
            wire::range_request::SortTarget::Mod => SortTarget::Mod,
            wire::range_request::SortTarget::Value => SortTarget::Value,
        };
        let descending = order == wire::range_request::SortOrder::Descend;
        let sort = (target != SortTarget::Key || descending).then_some((target, descending));
        let least = |number: i64| u64::try_from(number).ok().filter(|number| *number > 0);
        let most = |number: i64| (number != 0).then(|| u64::try_from(number).unwrap_or(0)); // below zero: none at all
        Ok(Self {
            keys: KeyRange::from_wire(request.key, request.range_end),
            at: read_at(request.revision),
            limit: usize::try_from(request.limit).ok().and_then(NonZeroUsize::new),
            sort,
            keys_only: request.keys_only,
            count_only: request.count_only,
            filter: Filter {
                min_mod: least(request.min_mod_revision),
                max_mod: most(request.max_mod_revision),
                min_create: least(request.min_create_revision),
                max_create: most(request.max_create_revision),
            },
            serializable: request.serializable,
        })
    }
}

/// etcd reads anything up to 0 as "now"; a number above every revision is as much in the future as the highest.
fn read_at(revision: i64) -> ReadAt {
    match revision {
        ..=0 => ReadAt::Latest,
        _ => ReadAt::Revision(Revision::checked_from(revision).unwrap_or(Revision::MAX)),
    }
}

impl TryFrom<wire::PutRequest> for Put {
    type Error = Fault;

    fn try_from(request: wire::PutRequest) -> Result<Self, Fault> {
        if request.key.is_empty() {
            return Err(Fault::EmptyKey);
        }
        if request.ignore_value && !request.value.is_empty() {
            return Err(Fault::ValueProvided);
        }
        if request.ignore_lease && request.lease != 0 {
            return Err(Fault::LeaseProvided);
        }
        Ok(Self {
            key: request.key,
            value: if request.ignore_value { Given::Kept } else { Given::New(request.value) },
            lease: if request.ignore_lease { Given::Kept } else { Given::New(request.lease) },
            prev_kv: request.prev_kv,
        })
    }
}

impl TryFrom<wire::DeleteRangeRequest> for Delete {
    type Error = Fault;

    fn try_from(request: wire::DeleteRangeRequest) -> Result<Self, Fault> {
        if request.key.is_empty() {
            return Err(Fault::EmptyKey);
        }
        Ok(Self { keys: KeyRange::from_wire(request.key, request.range_end), prev_kv: request.prev_kv })
    }
}

impl Txn {
    /// Checks and converts.
    ///
    /// # Errors
    /// What etcd answers: too many operations, missing keys, a key changed twice on one path.
    pub fn from_wire(request: wire::TxnRequest, limits: &Limits) -> Result<Self, Fault> {
        let txn = Self::convert(request, limits.txn_ops_max)?;
        check::puts_are_distinct(&txn)?;
        Ok(txn)
    }

    fn convert(request: wire::TxnRequest, ops_max: usize) -> Result<Self, Fault> {
        let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
        let nested_max = ops_max.checked_sub(longest).ok_or(Fault::TooManyOps)?;
        let ops = |ops: Vec<wire::RequestOp>| -> Result<Vec<_>, Fault> {
            ops.into_iter().map(|op| convert_op(op, nested_max)).collect()
        };
        Ok(Self {
            compares: request.compare.into_iter().map(Compare::try_from).collect::<Result<_, _>>()?,
            success: ops(request.success)?,
            failure: ops(request.failure)?,
        })
    }
}

fn convert_op(op: wire::RequestOp, nested_max: usize) -> Result<Op, Fault> {
    Ok(match op.request.ok_or(Fault::KeyNotFound)? {
        WireOp::RequestRange(range) => Op::Range(range.try_into()?),
        WireOp::RequestPut(put) => Op::Put(put.try_into()?),
        WireOp::RequestDeleteRange(delete) => Op::Delete(delete.try_into()?),
        WireOp::RequestTxn(txn) => Op::Txn(Txn::convert(txn, nested_max)?),
    })
}

impl TryFrom<wire::Compare> for Compare {
    type Error = Fault;

    fn try_from(compare: wire::Compare) -> Result<Self, Fault> {
        if compare.key.is_empty() {
            return Err(Fault::EmptyKey);
        }
        // An unknown comparison or target is no comparison: etcd treats it as one that always holds equal to zero.
        let comparison = match CompareResult::try_from(compare.result) {
            Ok(CompareResult::Equal) | Err(_) => Comparison::Equal,
            Ok(CompareResult::Greater) => Comparison::Greater,
            Ok(CompareResult::Less) => Comparison::Less,
            Ok(CompareResult::NotEqual) => Comparison::NotEqual,
        };
        let target = CompareTarget::try_from(compare.target).unwrap_or(CompareTarget::Version);
        let operand = match (target, compare.target_union) {
            (CompareTarget::Version, union) => Operand::Version(match union {
                Some(TargetUnion::Version(number)) => number,
                _ => 0,
            }),
            (CompareTarget::Create, union) => Operand::Create(match union {
                Some(TargetUnion::CreateRevision(number)) => number,
                _ => 0,
            }),
            (CompareTarget::Mod, union) => Operand::Mod(match union {
                Some(TargetUnion::ModRevision(number)) => number,
                _ => 0,
            }),
            (CompareTarget::Lease, union) => Operand::Lease(match union {
                Some(TargetUnion::Lease(number)) => number,
                _ => 0,
            }),
            (CompareTarget::Value, union) => Operand::Value(match union {
                Some(TargetUnion::Value(value)) => value,
                _ => Bytes::new(),
            }),
        };
        Ok(Self { keys: KeyRange::from_wire(compare.key, compare.range_end), comparison, operand })
    }
}
