# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Part of the benchmark's guests: redis servers with the same data, all registered.

DATA=/bench/data.resp

say_and_fail() {
	echo "guest: $*"
	exit 1
}

# sockets N
sockets() {
	for i in $(seq "$1"); do
		echo "/run/redis-$i.sock"
	done
}

# start_servers N COMMAND...: begins each server with these words.
start_servers() {
	servers=$1
	shift
	for i in $(seq "$servers"); do
		"$@" /bench/launch redis-server /bench/redis.conf \
			--unixsocket "/run/redis-$i.sock" >"/run/redis-$i.log" 2>&1 &
		echo $! >"/run/redis-$i.pid"
	done
	for i in $(seq "$servers"); do
		tries=0
		until [ -S "/run/redis-$i.sock" ]; do
			tries=$((tries + 1))
			[ $tries -lt 600 ] ||
				say_and_fail "redis server $i does not start: $(tail -n 1 "/run/redis-$i.log")"
			usleep 50000
		done
	done
}

# load_servers N
load_servers() {
	# shellcheck disable=SC2046 # one word for each socket
	/bench/store load $DATA $(sockets "$1") >/run/store.out 2>&1 ||
		say_and_fail "loading failed: $(tail -n 1 /run/store.out)"
}

# servers_pages N: anonymous pages of all servers: what KSM can work on.
servers_pages() {
	for i in $(seq "$1"); do
		cat "/proc/$(cat "/run/redis-$i.pid")/status"
	done | awk '/^RssAnon:/ { kib += $2 } END { print int(kib / 4) }'
}
