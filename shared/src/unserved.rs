//! Calls of etcd that have no meaning here: what a client is told, and what to do instead. One table for brains and
//! proxies.

use tonic::Status;

use crate::method;

const NO_USERS: &str = "there are no users and roles: let clients show certificates (--client-cert-auth), and keep \
    everybody else off the network";
const NO_MEMBERS: &str = "there are no voting members to change: name the brains of each group in the placement file, \
    and apply it by kubebrain ctl placement";
const NO_DOWNGRADE: &str = "there is no cluster version to lower: stop this program and start the other version on the \
    same data; one that cannot read it says so and changes nothing";

/// The refusal of a call that is not served.
pub fn refusal(path: &str) -> Status {
    let sentence = match path {
        method::MEMBER_ADD | method::MEMBER_REMOVE | method::MEMBER_UPDATE => NO_MEMBERS,
        method::DOWNGRADE => NO_DOWNGRADE,
        path if path.starts_with("/etcdserverpb.Auth/") => NO_USERS,
        _ => "this program does not have this call",
    };
    let method = path.trim_start_matches('/');
    Status::unimplemented(format!("kubebrain: {method} is not served: {sentence}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_call_and_says_what_to_do() {
        let cases = [
            ("/etcdserverpb.Cluster/MemberAdd", "placement file"),
            ("/etcdserverpb.Maintenance/Downgrade", "start the other version"),
            ("/etcdserverpb.Auth/RoleGrantPermission", "--client-cert-auth"),
            ("/etcdserverpb.KV/Frob", "does not have this call"),
        ];
        for (path, words) in cases {
            let refused = refusal(path);
            assert_eq!(refused.code(), tonic::Code::Unimplemented);
            assert!(refused.message().contains(&path[1..]), "{refused}");
            assert!(refused.message().contains(words), "{refused}");
        }
    }
}
