//! [`Process`]: a `kubebrain` that this test started, and ends.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use super::pki::Pair;
use super::{PATIENCE, until};

/// Whoever logs does not wait for the line to be written.
const WRITTEN_WITHIN: Duration = Duration::from_millis(20);

/// The program that is tested. Cargo tells only tests of its own package where it is: `env!("CARGO_BIN_EXE_kubebrain")`.
#[derive(Clone, Copy)]
pub struct Binary(&'static str);

impl Binary {
    pub const fn new(path: &'static str) -> Self {
        Self(path)
    }

    pub const fn path(self) -> &'static str {
        self.0
    }

    /// A directory for what it writes.
    pub fn place(self) -> Place {
        let directory = tempfile::Builder::new().prefix("kubebrain-process-").tempdir();
        Place { binary: self, directory: Some(directory.expect("a temporary directory")) }
    }

    /// By way of a command that becomes it.
    fn behind(self, before: &[String]) -> Command {
        match before {
            [] => Command::new(self.0),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(self.0);
                command
            }
        }
    }

    /// Runs `kubebrain ctl` to its end; what it prints, or what it says instead.
    pub fn ctl<S: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = S>) -> Result<String, String> {
        self.ctl_behind(&[], arguments)
    }

    /// As [`Binary::ctl`], by way of a command that becomes it.
    pub fn ctl_behind<S: AsRef<OsStr>>(
        self,
        before: &[String],
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<String, String> {
        let output = self.behind(before).arg("ctl").args(arguments).stdin(Stdio::null()).output();
        let output = output.expect("the binary runs");
        let [said, errors] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("UTF-8"));
        assert!(!errors.contains("panicked"), "{errors}");
        if output.status.success() { Ok(said) } else { Err(errors) }
    }
}

/// A directory for a test's data and logs; kept, and named, if the test fails.
pub struct Place {
    binary: Binary,
    directory: Option<TempDir>,
}

impl Place {
    pub fn path(&self) -> &Path {
        self.directory.as_ref().expect("until it is dropped").path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, text).expect("a temporary file");
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            eprintln!("kept: {}", directory.keep().display());
        }
    }
}

/// How a process is started.
#[derive(Clone)]
pub struct Start {
    binary: Binary,
    program: &'static str,
    arguments: Vec<String>,
    scheme: &'static str,
    clients: String,
    peers: Option<String>,
    peer_scheme: &'static str,
    logs: PathBuf,
    /// No flags but those that are given.
    exact: bool,
    tied: bool,
    /// What comes before the command: a program that sets something and becomes it.
    before: Vec<String>,
    /// Variables for it alone.
    pub environment: Vec<(String, OsString)>,
}

impl Start {
    pub fn standalone(place: &Place) -> Self {
        Self::new("standalone", place, "standalone").data(place, "data")
    }

    /// One brain of a group, with a directory of the group's name.
    pub fn brain(place: &Place, group: &str) -> Self {
        let mut start =
            Self::new("brain", place, &format!("brain-{group}")).data(place, group).flag("group", group);
        start.peers = Some("127.0.0.1:0".to_owned());
        start
    }

    pub fn proxy(place: &Place, name: &str, placement: &Path) -> Self {
        Self::new("proxy", place, name).placement(placement)
    }

    /// A proxy that is given nothing but addresses of brains.
    pub fn joining(place: &Place, name: &str, urls: &[String]) -> Self {
        Self::new("proxy", place, name).flag("join", &urls.join(","))
    }

    fn new(program: &'static str, place: &Place, logs: &str) -> Self {
        let clients = "127.0.0.1:0".to_owned();
        Self {
            binary: place.binary,
            program,
            arguments: Vec::new(),
            scheme: "http",
            clients,
            peers: None,
            peer_scheme: "http",
            logs: place.join(logs),
            exact: false,
            tied: false,
            before: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// With these arguments and no others.
    pub fn exactly(place: &Place, arguments: impl IntoIterator<Item = String>) -> Self {
        let mut start = Self::new("standalone", place, "exact");
        start.arguments = arguments.into_iter().collect();
        start.exact = true;
        start
    }

    /// Listens for clients at `SCHEME://PLACE`.
    pub fn clients(mut self, scheme: &'static str, place: &str) -> Self {
        self.scheme = scheme;
        self.clients = place.to_owned();
        self
    }

    /// With TLS for clients.
    pub fn https(self, certificate: &Path, key: &Path) -> Self {
        let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let start = self.clients("https", "127.0.0.1:0");
        start.flag("cert-file", &path(certificate)).flag("key-file", &path(key))
    }

    /// Listens for proxies at `SCHEME://PLACE`.
    pub fn peers(mut self, scheme: &'static str, place: &str) -> Self {
        self.peer_scheme = scheme;
        self.peers = Some(place.to_owned());
        self
    }

    /// With a certificate among proxies and brains, and the authority of the others'.
    pub fn peer_files(self, pair: &Pair, ca: &Path) -> Self {
        let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        self.flag("peer-cert-file", &path(&pair.certificate))
            .flag("peer-key-file", &path(&pair.key))
            .flag("peer-trusted-ca-file", &path(ca))
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// It ends with the thread that starts it, so that a killed test leaves nobody behind.
    pub fn tied(mut self) -> Self {
        self.tied = true;
        self
    }

    /// It may open so many files.
    pub fn limited(self, files: usize) -> Self {
        self.behind(&under_limit("-n", files))
    }

    /// It may open so many files, or raise that itself.
    pub fn limited_softly(self, files: usize) -> Self {
        self.behind(&under_limit("-Sn", files))
    }

    /// Keeps its state in TiKV, under a prefix, and nothing on this machine.
    pub fn on_tikv(mut self, pd: &str, prefix: &str) -> Self {
        self.arguments.retain(|argument| !argument.starts_with("--data-dir="));
        self.flag("engine", "tikv").flag("pd", pd).flag("store-prefix", prefix)
    }

    fn data(self, place: &Place, name: &str) -> Self {
        let path = place.join(name);
        self.data_dir(&path)
    }

    pub fn data_dir(self, path: &Path) -> Self {
        let path = path.to_str().expect("UTF-8").to_owned();
        self.flag("data-dir", &path)
    }

    pub fn placement(self, path: &Path) -> Self {
        let path = path.to_str().expect("UTF-8").to_owned();
        self.flag("placement", &path)
    }

    /// Replaces one that is there.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        let begin = format!("--{name}=");
        self.arguments.retain(|argument| !argument.starts_with(&begin));
        self.arguments.push(begin + value);
        self
    }

    /// Starts it under a umask, in octal.
    pub fn umask(self, umask: &str) -> Self {
        self.behind(&under_umask(umask))
    }

    /// Starts it by a command that becomes it.
    pub fn behind(mut self, before: &[String]) -> Self {
        self.before = before.to_vec();
        self
    }

    fn command(&self) -> Command {
        let tied = self.tied.then(|| ["setpriv", "--pdeathsig=KILL"].map(str::to_owned));
        let before: Vec<String> = tied.into_iter().flatten().chain(self.before.iter().cloned()).collect();
        let mut command = self.binary.behind(&before);
        // Nothing of the caller's own settings; a default of the machine's is not a default of ours.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("ETCD_") || name.starts_with("KUBEBRAIN_")) {
                command.env_remove(name);
            }
        }
        command.arg(self.program).args(&self.arguments).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if self.exact {
            return command;
        }
        command.arg(format!("--listen-client-urls={}://{}", self.scheme, self.clients));
        if let Some(peers) = &self.peers {
            command.arg(format!("--listen-peer-urls={}://{peers}", self.peer_scheme));
        }
        command
    }

    fn log(&self, end: &str) -> PathBuf {
        self.logs.with_extension(end)
    }

    /// Starts it and waits until it serves.
    pub async fn run(self) -> Process {
        let program = self.program;
        match self.starts().await {
            Ok(process) => process,
            Err(failure) => panic!("{program} has ended, {:?}:\n{}", failure.code, failure.message),
        }
    }

    /// Starts it and waits until it listens: it may serve nothing yet.
    pub async fn listening(self) -> Process {
        let program = self.program;
        match self.begins().listens().await {
            Ok(process) => process,
            Err(failure) => panic!("{program} has ended, {:?}:\n{}", failure.code, failure.message),
        }
    }

    /// Starts it and waits until it serves, or has failed.
    pub async fn starts(self) -> Result<Process, Failure> {
        self.begins().serves().await
    }

    /// Starts it, and no more.
    pub fn begins(self) -> Beginning {
        let append =
            |end: &str| File::options().create(true).append(true).open(self.log(end)).expect("a log file");
        let before = read(&self.log("err")).len();
        let child =
            self.command().stdout(append("out")).stderr(append("err")).spawn().expect("the binary runs");
        Beginning { process: Process { child, start: self, probes: None, may_panic: false }, before }
    }

    /// Starts it and waits for its end, which must be a failure.
    pub async fn fails(self) -> Failure {
        let mut child =
            self.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let end = Instant::now() + PATIENCE;
        while child.try_wait().expect("a child").is_none() {
            if Instant::now() > end {
                child.kill().expect("a child");
                let output = child.wait_with_output().expect("a child");
                panic!("it goes on instead of failing: {}", String::from_utf8_lossy(&output.stderr));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let output = child.wait_with_output().expect("a child");
        let message = String::from_utf8(output.stderr).expect("UTF-8");
        let failure = Failure { code: output.status.code(), message };
        assert!(!output.status.success(), "it succeeds instead of failing: {failure:?}");
        assert!(!failure.message.contains("panicked"), "{failure:?}");
        failure
    }
}

/// What sets a umask, in octal, and becomes a command.
pub fn under_umask(umask: &str) -> Vec<String> {
    ["sh", "-c", &format!("umask {umask} && exec \"$@\""), "sh"].map(str::to_owned).to_vec()
}

/// What sets a limit by an option of `ulimit`, and becomes a command.
fn under_limit(option: &str, files: usize) -> Vec<String> {
    ["sh", "-c", &format!("ulimit {option} {files} && exec \"$@\""), "sh"].map(str::to_owned).to_vec()
}

/// What a process that could not start has said.
#[derive(Debug)]
pub struct Failure {
    pub code: Option<i32>,
    pub message: String,
}

/// A process that may serve some time.
pub struct Beginning {
    process: Process,
    /// How long its log was before it.
    before: usize,
}

impl Beginning {
    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.log().split_off(self.before)
    }

    /// See [`Process::must_run`].
    pub fn must_run(&mut self) {
        self.process.must_run();
    }

    /// What there is of it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// See [`Beginning::process`].
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it, whatever it is at.
    pub async fn kill(mut self) -> Start {
        self.process.kill().await;
        self.process.start()
    }

    /// Waits until it listens, or has failed: it may serve nothing yet.
    pub async fn listens(self) -> Result<Process, Failure> {
        Ok(self.says(" starts ").await?.process)
    }

    /// Waits until its log has this, or it has failed. From then on its ports are known.
    async fn says(self, words: &str) -> Result<Self, Failure> {
        let Self { mut process, before } = self;
        let mut start = process.start();
        let log = until(&format!("{words:?} in its log"), async || {
            if let Some(failure) = process.failed(before) {
                return Some(Err(failure));
            }
            let log = read(&start.log("err")).split_off(before);
            log.contains(words).then_some(Ok(log))
        })
        .await?;
        let began = log.lines().find(|line| line.contains(&format!("kubebrain {} starts", start.program)));
        let began = began.expect("its first line");
        process.probes = url(began, "probes");
        // A restart takes the same ports.
        start.clients = url(began, "clients").expect("it says where it listens");
        if start.peers.is_some() {
            start.peers = url(began, "peers");
        }
        process.start = start;
        Ok(Self { process, before })
    }

    /// Waits until it serves, or has failed.
    pub async fn serves(self) -> Result<Process, Failure> {
        let Self { mut process, before } = self.says("INFO ready: ").await?;
        if process.start.scheme != "http" || process.start.exact {
            return Ok(process);
        }
        let address = process.address().to_owned();
        let ready = super::in_time("ready", super::client::ready(&address));
        let ended = until("an end, or not", async || process.failed(before));
        tokio::select! {
            () = ready => {}
            failure = ended => return Err(failure),
        }
        Ok(process)
    }
}

/// A running process. Dropping it kills it.
pub struct Process {
    child: Child,
    start: Start,
    probes: Option<String>,
    may_panic: bool,
}

impl Process {
    /// `host:port` for clients.
    pub fn address(&self) -> &str {
        &self.start.clients
    }

    /// `host:port` for probes alone.
    pub fn probe_address(&self) -> &str {
        self.probes.as_deref().expect("it has URLs for probes")
    }

    /// `host:port` for proxies.
    pub fn peer_address(&self) -> &str {
        self.start.peers.as_deref().expect("a brain")
    }

    /// How it was started, with the ports that it has.
    pub fn start(&self) -> Start {
        self.start.clone()
    }

    /// Of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it and those before it in this place have logged.
    pub fn log(&self) -> String {
        std::thread::sleep(WRITTEN_WITHIN);
        read(&self.start.log("err"))
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = read(Path::new(&format!("/proc/{}/status", self.child.id())));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// That it has ended, and what it said after the first `before` bytes of its log.
    fn failed(&mut self, before: usize) -> Option<Failure> {
        let status = self.child.try_wait().expect("a child")?;
        Some(Failure { code: status.code(), message: self.log().split_off(before) })
    }

    pub fn must_run(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child") {
            panic!("{} has ended, {status}:\n{}", self.start.program, self.log());
        }
    }

    /// True once it has.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// The log of one that was made to panic; the others must not have.
    pub fn log_of_a_panic(&mut self) -> String {
        let log = self.log();
        self.may_panic = true;
        log
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.expect("there is a kill command").success(), "no signal was sent");
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("the end of the process", async || child.try_wait().expect("a child")).await
    }

    /// kill -9; it returns when the process is gone.
    pub async fn kill(&mut self) {
        self.signal("KILL");
        self.ended().await;
    }

    /// Ends it as an operator does, and starts it again.
    pub async fn restart(mut self) -> Self {
        self.signal("TERM");
        let status = self.ended().await;
        assert!(status.success(), "{status}:\n{}", self.log());
        self.start().run().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        let log = self.log();
        if std::thread::panicking() {
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(20)..].join("\n");
            eprintln!("{} {:?} said last:\n{tail}", self.start.program, self.start.arguments);
        } else {
            assert!(
                self.may_panic || !log.contains("panicked"),
                "a task of {} has panicked:\n{log}",
                self.start.program
            );
        }
    }
}

/// What stands in a file; nothing if there is none.
fn read(path: &Path) -> String {
    std::fs::read(path).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The first URL of a field of a line, without its scheme.
fn url(line: &str, field: &str) -> Option<String> {
    let urls = line.split_whitespace().find_map(|word| word.strip_prefix(&format!("{field}=")))?;
    Some(urls.split(',').next()?.split_once("://")?.1.to_owned())
}
