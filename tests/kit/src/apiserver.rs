//! [`ApiServer`]: a kube-apiserver on an etcd of its own, for one test, in a directory and on ports of its own. The
//! binaries are those of `tests/kubernetes`.
//!
//! Without them it is `None` and the test ends there, having said so; with `CI=true` that is a failure.
//! `KUBEBRAIN_TEST_APISERVER=none`: none in this run, wherever they are.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::cluster::free_port;
use crate::programs::{self, Programs};

/// Nothing here takes this long on a machine that works, however slow it is.
const PATIENCE: Duration = Duration::from_secs(180);

/// See the module. Dropping it kills both processes and removes what they wrote.
pub struct ApiServer {
    kit: Programs,
    port: u16,
    etcd_port: u16,
    etcd: Option<Child>,
    server: Option<Child>,
}

impl ApiServer {
    /// Starts both and waits until clients are served.
    pub async fn start() -> Option<Self> {
        let kit =
            Programs::find("kubernetes", &["etcd", "controlplane", "kubectl"], "KUBEBRAIN_TEST_APISERVER")?;
        let (port, etcd_port) = (free_port(), free_port());
        let mut server = Self { kit, port, etcd_port, etcd: None, server: None };
        server.certificates();
        server.start_etcd();
        server.restart().await;
        Some(server)
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.kit.path().join(name), text).expect("a temporary file");
    }

    /// An authority, the server's certificate, a key for tokens, and two users: `admin` may all, `brain` nothing.
    fn certificates(&self) {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        self.file("alternative", "subjectAltName=DNS:localhost,IP:127.0.0.1\n");
        let sign = "-CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile alternative";
        self.openssl(&format!("req -x509 {key} -days 30 -subj /CN=test-ca -keyout ca.key -out ca.crt"));
        self.openssl(&format!("req {key} -subj /CN=apiserver -keyout server.key -out server.csr"));
        self.openssl(&format!("x509 -req -in server.csr {sign} -out server.crt"));
        self.openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out tokens.key");
        self.file("tokens.csv", "token-admin,admin,admin,system:masters\ntoken-brain,brain,brain,\n");
        for user in ["admin", "brain"] {
            let config = format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
                 clusters: [{{name: test, cluster: {{server: 'https://127.0.0.1:{}', certificate-authority: ca.crt}}}}]\n\
                 users: [{{name: test, user: {{token: token-{user}}}}}]\n\
                 contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n",
                self.port
            );
            self.file(&format!("{user}.kubeconfig"), &config);
        }
    }

    fn openssl(&self, arguments: &str) {
        let made =
            Command::new("openssl").args(arguments.split_whitespace()).current_dir(self.kit.path()).output();
        let made = made.expect("there is openssl");
        assert!(made.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&made.stderr));
    }

    fn start_etcd(&mut self) {
        let (clients, peers) =
            (format!("http://127.0.0.1:{}", self.etcd_port), format!("http://127.0.0.1:{}", free_port()));
        let mut command = self.kit.command("etcd");
        command.args(["--name=one", "--log-level=warn", "--unsafe-no-fsync"]);
        command.arg("--data-dir").arg(self.kit.path().join("etcd"));
        command
            .args([format!("--listen-client-urls={clients}"), format!("--advertise-client-urls={clients}")]);
        command
            .args([format!("--listen-peer-urls={peers}"), format!("--initial-advertise-peer-urls={peers}")]);
        command.arg(format!("--initial-cluster=one={peers}"));
        self.etcd = Some(self.kit.spawn(command, "etcd.log"));
    }

    /// Starts the API server on what its etcd has, and waits until clients are served.
    pub async fn restart(&mut self) {
        let mut command = self.kit.command("controlplane");
        command.arg("kube-apiserver").arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port));
        command.args(["--bind-address=127.0.0.1", "--advertise-address=192.0.2.1"]);
        command.arg(format!("--secure-port={}", self.port));
        command.args(["--tls-cert-file=server.crt", "--tls-private-key-file=server.key"]);
        command.args(["--token-auth-file=tokens.csv", "--authorization-mode=RBAC"]);
        command
            .args(["--service-account-key-file=tokens.key", "--service-account-signing-key-file=tokens.key"]);
        command.args(["--service-account-issuer=https://kubernetes.default.svc", "--cert-dir=."]);
        command.arg("--service-cluster-ip-range=10.96.0.0/16");
        self.server = Some(self.kit.spawn(command, "apiserver.log"));
        let end = Instant::now() + PATIENCE;
        loop {
            if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
                && self.kubectl(&["get", "--raw=/readyz"], "").is_ok_and(|said| said.trim() == "ok")
            {
                return;
            }
            if let Some(status) = programs::ended([&mut self.etcd, &mut self.server]) {
                panic!("a process of the API server has ended, {status}:\n{}", self.logs());
            }
            assert!(Instant::now() < end, "no API server within {PATIENCE:?}\n{}", self.logs());
            sleep(Duration::from_millis(300)).await;
        }
    }

    /// kill -9 of the API server; it returns when the process is gone. Its etcd lives on.
    pub fn kill(&mut self) {
        programs::kill(&mut self.server);
    }

    /// How `user`, `admin` or `brain`, reaches it.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.kit.path().join(format!("{user}.kubeconfig"))
    }

    /// What kubectl prints as `admin`, or what it says instead.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = Command::new(self.kit.binary("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig("admin")).args(arguments);
        command.arg("--cache-dir").arg(self.kit.path().join("cache"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a binary of the kit runs");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(input.as_bytes()).expect("kubectl reads");
        drop(stdin);
        let output = child.wait_with_output().expect("a child");
        let [said, errors] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        if output.status.success() { Ok(said) } else { Err(errors) }
    }

    /// The ends of both logs.
    fn logs(&self) -> String {
        self.kit.ends(&["etcd.log", "apiserver.log"])
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        programs::kill(&mut self.server);
        programs::kill(&mut self.etcd);
    }
}
