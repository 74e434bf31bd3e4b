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

/// API groups of Kubernetes with a dot, whose resources it stores without the group. Those of custom resources are others.
const BUILT_IN: &[&str] = &[
    "admissionregistration.k8s.io",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
];

/// What was probably meant by a rule for `kind`, as a rule's field; `None` where nothing speaks against it. `prefix` is the
/// table's.
pub(super) fn meant(kind: &str, prefix: &str) -> Option<String> {
    if let Ok(found) = ELSEWHERE.binary_search_by_key(&kind, |(name, _)| name) {
        return Some(ELSEWHERE[found].1.replace("PREFIX", prefix));
    }
    if STORED.binary_search(&kind).is_ok() {
        return None;
    }
    if let Some((group, resource)) = kind.split_once('/')
        && BUILT_IN.binary_search(&group).is_ok()
    {
        return Some(meant(resource, prefix).unwrap_or_else(|| format!("kind: {resource}")));
    }
    // A slip in a short word, two in a longer one: `pod`, `evnets`, `persistantvolumeclaim`. What is longer or shorter by
    // more is not looked at, nor is what is written the other way, with or without a group.
    let slips = if kind.len() < 6 { 1 } else { 2 };
    let names = STORED.iter().chain(ELSEWHERE.iter().map(|(name, _)| name));
    let may_be =
        |name: &&&str| name.len().abs_diff(kind.len()) <= slips && name.contains('/') == kind.contains('/');
    let near = names.filter(may_be).map(|name| (strsim::damerau_levenshtein(kind, name), *name));
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
            ("networking.k8s.io/ingresses", "kind: ingress"),
            ("rbac.authorization.k8s.io/roles", "kind: roles"),
            ("events.k8s.io/event", "kind: events"),
            ("resource.k8s.io/somethingnew", "kind: somethingnew"),
            (
                "apiextensions.k8s.io/customresourcedefinition",
                "kind: apiextensions.k8s.io/customresourcedefinitions",
            ),
        ] {
            assert_eq!(meant(written, "/registry").as_deref(), Some(wanted), "{written}");
        }
        for right in [
            "pods",
            "services",
            "minions",
            "widgets",
            "example.com/pods",
            "gateway.networking.k8s.io/routes",
            "x",
            "rose",
        ] {
            assert_eq!(meant(right, "/registry"), None, "{right}");
        }
        assert!(STORED.is_sorted() && ELSEWHERE.is_sorted() && BUILT_IN.is_sorted());
    }
}
