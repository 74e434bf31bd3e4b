# Sourced by the programs of this directory. A set of brains is a directory, DIR. Of each process NAME it has
# NAME.args (one argument a line), NAME.url (where its clients come), NAME.pid and NAME.log.
set -euo pipefail
home=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
KUBEBRAIN=${KUBEBRAIN:-$home/../../../target/release/kubebrain}

usage() { sed -n '2,/^[^#]/s/^# //p' "$0"; exit 2; }
say() { printf '%s  %s\n' "$(date +%T)" "$*"; }
fail() { say "FAILED: $*" >&2; exit 1; }
now() { echo $(($(date +%s%N) / 1000000)); } # milliseconds

running() { local is; is=$(ps -o stat= -p "$1") && [[ $is != Z* ]]; } # PID; who waits to be reaped is gone
alive() { [ -f "$dir/$1.pid" ] && running "$(cat "$dir/$1.pid")"; }
ask() { curl -s --noproxy '*' --max-time 2 "$(cat "$dir/$1.url")$2"; }           # NAME PATH
ready() { [[ $(ask "$1" /readyz) == ok* ]]; } # NAME
leads() { ask "$1" /metrics | awk '$1 == "etcd_server_is_leader" { is = $2 } END { exit is != 1 }'; }  # NAME
names() { (cd "$dir" && ls -- *.args) | sed 's/\.args$//' | grep -vx proxy; }    # of the brains
brains() { names | grep -E "^$1-[0-9]+$"; }                                      # of GROUP
groups() { names | sed -E 's/-[0-9]+$//' | sort -u; }
master() { # GROUP: the name of its master; fails where there is none
	local name
	for name in $(brains "$1"); do leads "$name" && echo "$name" && return; done
	return 1
}

start() { # NAME: in a session of its own unless ATTACHED is set; its log goes on
	local -a arguments session=()
	alive "$1" && fail "$1 runs already"
	[ -n "${ATTACHED:-}" ] || session=(setsid)
	mapfile -t arguments < "$dir/$1.args"
	"${session[@]}" "$KUBEBRAIN" "${arguments[@]}" >> "$dir/$1.log" 2>&1 < /dev/null &
	echo $! > "$dir/$1.pid"
	disown # no word from bash when it is killed
}
await() { # SECONDS NAME WHAT COMMAND...: NAME lives meanwhile
	local end=$((SECONDS + $1)) name=$2 what=$3
	shift 3
	until "$@"; do
		alive "$name" || { tail -n 5 "$dir/$name.log" >&2; fail "$name ended"; }
		[ $SECONDS -lt $end ] || { tail -n 5 "$dir/$name.log" >&2; fail "$name: no $what in time"; }
		sleep 0.1
	done
}
end() { # NAME SIGNAL: returns when it is gone
	local pid
	pid=$(cat "$dir/$1.pid")
	kill "-$2" "$pid" 2> /dev/null || true
	for _ in $(seq 300); do running "$pid" || return 0; sleep 0.1; done
	say "$1 did not end in 30 s, killed"
	kill -KILL "$pid"
	return 1
}
