//! Kinds of Kubernetes by the names under which it stores them, to find a rule that was meant for one of them.

/// Behind the table's prefix, as of Kubernetes 1.37. Names that were stored by older releases are in it too.
const STORED: &[&str] = &[
    "apiextensions.k8s.io/customresourcedefinitions",
    "apiregistration.k8s.io/apiservices",
    "certificatesigningrequests",
    "clusterrolebindings",
    "clusterroles",
    "clustertrustbundles",
    "configmaps",
    "controllerrevisions",
    "controllers",
    "cronjobs",
    "csidrivers",
    "csinodes",
    "csistoragecapacities",
    "daemonsets",
    "deployments",
    "deviceclasses",
    "devicetaintrules",
    "endpointslices",
    "events",
    "flowschemas",
    "horizontalpodautoscalers",
    "ingress",
    "ingressclasses",
    "ipaddresses",
    "jobs",
    "leasecandidates",
    "leases",
    "limitranges",
    "masterleases",
    "minions",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "mutatingwebhookconfigurations",
    "namespaces",
    "networkpolicies",
    "persistentvolumeclaims",
    "persistentvolumes",
    "podcertificaterequests",
    "poddisruptionbudgets",
    "pods",
    "podtemplates",
    "priorityclasses",
    "prioritylevelconfigurations",
    "ranges",
    "replicasets",
    "resourceclaims",
    "resourceclaimtemplates",
    "resourcequotas",
    "resourceslices",
    "rolebindings",
    "roles",
    "runtimeclasses",
    "secrets",
    "serviceaccounts",
    "servicecidrs",
    "services",
    "statefulsets",
    "storageclasses",
    "storageversionmigrations",
    "storageversions",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "validatingwebhookconfigurations",
    "volumeattachments",
    "volumeattributesclasses",
];

/// Resources whose keys are elsewhere than their name says, and what to write in a rule.
const ELSEWHERE: &[(&str, &str)] = &[
    ("apiservices", "kind: apiregistration.k8s.io/apiservices"),
    ("customresourcedefinitions", "kind: apiextensions.k8s.io/customresourcedefinitions"),
    ("endpoints", "prefix: PREFIX/services/endpoints/"),
    ("ingresses", "kind: ingress"),
    ("nodes", "kind: minions"),
    ("replicationcontrollers", "kind: controllers"),
];

/// What was probably meant by a rule for `kind`, as a rule's field; `None` where nothing speaks against it. `prefix` is the
/// table's.
pub(super) fn meant(kind: &str, prefix: &str) -> Option<String> {
    if let Some((_, rule)) = ELSEWHERE.iter().find(|(name, _)| *name == kind) {
        return Some(rule.replace("PREFIX", prefix));
    }
    if STORED.contains(&kind) {
        return None;
    }
    // A slip in a short word, two in a longer one: `pod`, `evnets`, `persistantvolumeclaim`.
    let slips = if kind.len() < 6 { 1 } else { 2 };
    let names = STORED.iter().chain(ELSEWHERE.iter().map(|(name, _)| name));
    let near = names.map(|name| (strsim::damerau_levenshtein(kind, name), *name));
    let (_, name) = near.filter(|(distance, _)| *distance <= slips).min()?;
    Some(meant(name, prefix).unwrap_or_else(|| format!("kind: {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_found_and_other_kinds_are_left_alone() {
        for (written, wanted) in [
            ("pod", "kind: pods"),
            ("evnets", "kind: events"),
            ("persistantvolumeclaim", "kind: persistentvolumeclaims"),
            ("node", "kind: minions"),
            ("endpoint", "prefix: /registry/services/endpoints/"),
            ("ingresses", "kind: ingress"),
        ] {
            assert_eq!(meant(written, "/registry").as_deref(), Some(wanted), "{written}");
        }
        for right in ["pods", "services", "minions", "widgets", "example.com/pods", "x", "rose"] {
            assert_eq!(meant(right, "/registry"), None, "{right}");
        }
        assert!(STORED.is_sorted() && ELSEWHERE.is_sorted());
    }
}
