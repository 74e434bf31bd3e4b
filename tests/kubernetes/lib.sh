# Sourced by run, crd-placement and two-proxies: servers on free loopback ports in a scratch
# directory; everything started is ended, by pid, and everything written is removed at exit.
set -euo pipefail
kit=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$kit/../.." && pwd)
KUBEBRAIN=${KUBEBRAIN:-$root/target/release/kubebrain}
scratch=$(mktemp -d /tmp/kubebrain-kit.XXXXXX)
servers=() planes=() clusters=() sets=()
export CHECK_PERIOD=${CHECK_PERIOD:-10s}

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }
exec 3>&1
fail() { say "FAILED: $*" >&3; exit 1; }
port() { "$kit/freeport" "$@"; }

spawn() { # NAME COMMAND...: in the background, log in scratch/NAME.log
	local name=$1
	shift
	setsid "$@" > "$scratch/$name.log" 2>&1 < /dev/null &
	servers+=($!)
	echo $! > "$scratch/$name.server"
	disown # no word from bash when it is killed
}
pid_of() { cat "$scratch/$1.server"; }

finish() {
	local rc=$? pid plane
	trap - EXIT
	for plane in "${planes[@]}"; do GRACE=${GRACE:-1} "$kit/down" "$plane" > /dev/null 2>&1 || true; done
	for pid in "${servers[@]}"; do kill -TERM "$pid" 2> /dev/null || true; done
	for pid in "${servers[@]}"; do
		for _ in $(seq 50); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
		kill -KILL -- "-$pid" 2> /dev/null || true
	done
	for plane in "${sets[@]}"; do "$root/tests/kits/elected/down" "$plane" > /dev/null 2>&1 || true; done
	for plane in "${clusters[@]}"; do "$root/tests/kits/tikv/down" "$plane" > /dev/null 2>&1 || true; done
	if [ $rc != 0 ] && [ -n "${KEEP:-}" ]; then say "kept $scratch"; else rm -rf "$scratch"; fi
	exit $rc
}
trap finish EXIT
trap 'exit 130' INT TERM

ctl() { "$kit/bin/etcdctl" --endpoints "$endpoint" "$@"; }
await() { # SECONDS WHAT COMMAND...
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" > /dev/null 2>&1; do
		[ $SECONDS -lt $end ] || fail "no $what in time"
		sleep 0.2
	done
}
serving() { # NAME: the server NAME lives and $endpoint answers
	kill -0 "$(pid_of "$1")" 2> /dev/null || { tail -20 "$scratch/$1.log" >&3; fail "$1 ended"; }
	ctl --command-timeout=2s get health
}

# The first table of the project's own runs, in use from the start; who needs another group too adds it to groups.
groups=(core pods events)
placement() { # [URL of a brain of each group...]
	local group
	printf 'prefix: /registry\nhome: core\ndefault: core\ngroups:\n'
	for group in "${groups[@]}"; do
		echo "  $group: { ${1:+brains: [$1]} }"
		shift $(($# > 0))
	done
	printf 'kinds:\n  - { kind: pods, group: pods }\n  - { kind: events, group: events }\n'
}

# serve SERVER: starts it, sets endpoint and pids (those whose CPU and memory count).
serve() {
	local server=$1 client peer
	client=$(port 2) peer=$((client + 1))
	endpoint=http://127.0.0.1:$client
	[ "$server" = etcd ] || [ -x "$KUBEBRAIN" ] || fail "$KUBEBRAIN is missing"
	case $server in
		etcd)
			spawn etcd "${ETCD:-$kit/bin/etcd}" --name one --data-dir "$scratch/data" --log-level warn \
				--listen-client-urls "$endpoint" --advertise-client-urls "$endpoint" \
				--listen-peer-urls http://127.0.0.1:$peer --initial-advertise-peer-urls http://127.0.0.1:$peer \
				--initial-cluster one=http://127.0.0.1:$peer ${SERVER_FLAGS:-} ;;
		brain)
			spawn brain "$KUBEBRAIN" brain --group default --data-dir "$scratch/data" \
				--listen-client-urls "$endpoint" --listen-peer-urls http://127.0.0.1:$peer ${SERVER_FLAGS:-} ;;
		standalone) # one group, no placement
			spawn standalone "$KUBEBRAIN" standalone --data-dir "$scratch/data" --listen-client-urls "$endpoint" ${SERVER_FLAGS:-} ;;
		groups) # standalone over the groups of a placement
			[ -n "${PLACEMENT:-}" ] && cp "$PLACEMENT" "$scratch/placement.yaml" || placement > "$scratch/placement.yaml"
			spawn groups "$KUBEBRAIN" standalone --data-dir "$scratch/data" --listen-client-urls "$endpoint" \
				--placement "$scratch/placement.yaml" ${SERVER_FLAGS:-} ;;
		proxy) # a process per brain, and a proxy before them
			brains
			proxy proxy ;;
		tikv) # the same, and the brains keep their state in PD and a store
			tikv
			brains --engine=tikv --pd="$pd"
			proxy tikv ;;
		elected) # two groups on TiKV, of three brains that elect a master each, and a proxy before them
			elected
			return ;;
		*) fail "unknown server $server" ;;
	esac
	await 60 "answer of $server" serving "$server"
	pids=("${servers[@]}")
}

tikv() { # PD and a store; sets pd
	mkdir "$scratch/tikv"
	clusters+=("$scratch/tikv")
	"$root/tests/kits/tikv/up" "$scratch/tikv" > "$scratch/tikv.up" || { cat "$scratch/tikv.up"; fail "no PD and store"; }
	pd=127.0.0.1:$(awk '$1 == "pd" { print $3 }' "$scratch/tikv.up")
}

elected() { # sets endpoint, pids, and elected: the directory for the programs of tests/kits/elected
	elected=$scratch/elected
	mkdir "$elected"
	sets+=("$elected")
	KUBEBRAIN=$KUBEBRAIN BRAIN_FLAGS=${SERVER_FLAGS:-} "$root/tests/kits/elected/up" "$elected" ${PLACEMENT:+"$PLACEMENT"} > "$scratch/elected.up" 2>&1 ||
		{ cat "$scratch/elected.up"; fail "no groups"; }
	endpoint=$(cat "$elected/proxy.url")
	mapfile -t pids < <(cat "$elected"/*.pid "$elected"/tikv/*.pid)
}

declare -A clients peers # by group: the URLs of its brain
brains() { # [FLAG...]: a brain for each of the groups, found through scratch/placement.yaml
	local group first
	local -a urls=()
	first=$(port $((2 * ${#groups[@]})))
	for group in "${groups[@]}"; do
		place "$group" $((first + 2 * ${#urls[@]}))
		urls+=("${peers[$group]}")
	done
	placement "${urls[@]}" > "$scratch/placement.yaml"
	for group in "${groups[@]}"; do brain "$group" --placement "$scratch/placement.yaml" "$@"; done
}
place() { # GROUP [PORT]: where its brain will be
	local port=${2:-$(port 2)}
	clients[$1]=http://127.0.0.1:$port peers[$1]=http://127.0.0.1:$((port + 1))
}
brain() { # GROUP [FLAG...]: at its place
	local group=$1
	shift
	spawn "brain-$group" "$KUBEBRAIN" brain --group "$group" --name "$group-0" --data-dir "$scratch/$group" \
		--listen-client-urls "${clients[$group]}" --listen-peer-urls "${peers[$group]}" "$@" ${SERVER_FLAGS:-}
}

proxy() { # NAME: sets endpoint
	endpoint=http://127.0.0.1:$(port)
	spawn "$1" "$KUBEBRAIN" proxy --placement "$scratch/placement.yaml" --listen-client-urls "$endpoint" ${PROXY_FLAGS:-}
}

plane() { # NAME: kube-apiserver and friends (RUN) on $endpoint; sets KUBECONFIG
	planes+=("$scratch/$1")
	PORT=$(port 3) "$kit/up" "$endpoint" "$scratch/$1" > "$scratch/$1.up" 2>&1 || { tail -20 "$scratch/$1.up"; fail "no control plane"; }
	export KUBECONFIG=$scratch/$1/kubeconfig
	say "$1: $(grep '^ready' "$scratch/$1.up")"
}
k() { "$kit/bin/kubectl" --cache-dir "$scratch/cache" "$@"; }
