use super::*;

/// The arguments that are left of `given`, with `environment`.
fn taken(given: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
    let mut command = command();
    command.build();
    let given = ["kubebrain"].iter().chain(given).map(OsString::from);
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let arguments = arguments(&command, given, environment);
    arguments.into_iter().skip(1).map(|argument| argument.into_string().expect("UTF-8")).collect()
}

#[test]
fn every_flag_is_listed_once_and_each_program_takes_them_all() {
    let names: BTreeSet<_> = all().collect();
    assert_eq!(names.len(), all().count(), "a flag is listed twice");
    let mut command = command();
    command.build(); // clap's own checks
    for program in PROGRAMS {
        let program = command.find_subcommand(program).expect("a program");
        let longs: BTreeSet<_> = program.get_arguments().filter_map(Arg::get_long).collect();
        let missing: Vec<_> = names.difference(&longs).collect();
        assert!(missing.is_empty(), "{}: {missing:?}", program.get_name());
    }
}

#[test]
fn arguments_are_read_as_go_reads_them() {
    let cases: [(&[&str], &[&str]); 7] = [
        (&["standalone", "-name", "a"], &["standalone", "--name", "a"]),
        (&["--log-level=info", "brain", "-name=a"], &["--log-level=info", "brain", "--name=a"]),
        (&["proxy", "-log-level=info"], &["proxy", "--log-level=info"]),
        (&["standalone", "--experimental-max-learners=1"], &["standalone", "--max-learners=1"]),
        (&["standalone", "--experimental-no-such"], &["standalone", "--experimental-no-such"]),
        (&["standalone", "-h", "-nam"], &["standalone", "-h", "-nam"]),
        (&["-name", "a"], &["-name", "a"]),
    ];
    for (given, wanted) in cases {
        assert_eq!(taken(given, &[]), wanted);
    }
}

#[test]
fn older_names_count_in_the_environment_unless_a_flag_says_otherwise() {
    let old =
        [("ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", "5s"), ("ETCD_EXPERIMENTAL_NO_SUCH", "1")];
    assert_eq!(taken(&["standalone"], &old), ["standalone", "--watch-progress-notify-interval=5s"]);
    let said = ["standalone", "--watch-progress-notify-interval=9s"];
    assert_eq!(taken(&said, &old), said);
    assert_eq!(taken(&["-V"], &old), ["-V"]);
}

#[test]
fn every_flag_of_a_program_that_is_shown_stands_under_a_heading() {
    let mut command = command();
    command.build();
    for program in PROGRAMS.map(|program| command.find_subcommand(program).expect("a program")) {
        let bare: Vec<_> = program
            .get_arguments()
            .filter(|arg| !arg.is_hide_set() && arg.get_help_heading().is_none())
            .filter_map(Arg::get_long)
            .filter(|name| !matches!(*name, "help" | "print-config" | "version"))
            .collect();
        assert!(bare.is_empty(), "{}: {bare:?} belong into src/headings.rs", program.get_name());
    }
}
