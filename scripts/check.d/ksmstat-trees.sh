# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Part of scripts/check.d/ksmstat: the trees, and what ksmstat must make of them.

# What is used here and not set is set there.
# shellcheck disable=SC2154

# fresh_tree NAME: makes $root anew from ksmstat.d/NAME.tree.
fresh_tree()
{
	local path text

	[ ! -e "$root" ] || chmod -R u+rwX "$root"
	rm -rf "$root"
	while IFS=: read -r path text; do
		mkdir -p "$root/${path%/*}"
		printf '%s\n' "$text" >>"$root/$path"
	done <"$DATA/$1.tree"
	chmod -R a+rX "$root"
}

# put FILE VALUE: of /sys/kernel/mm/ksm
put()
{
	printf '%s\n' "$2" >"$root/$SYSFS/$1"
}

test_recorded()
{
	local tree

	for tree in ours base linux-6.1; do
		fresh_tree $tree
		expect "$tree: page" 0 -i 0 <"$DATA/$tree.page"
		expect "$tree: JSON" 0 -i 0 --json <"$DATA/$tree.json"
		expect "$tree: metrics" 0 --prometheus <"$DATA/$tree.prom"
		expect "$tree: processes" 0 -p <"$DATA/$tree.processes"
	done
}

# A page must not wrap in a terminal.
test_page_width()
{
	local file longest

	for file in "$DATA"/*.page; do
		longest=$(awk '{ if (length > n) n = length } END { print n }' "$file")
		holds "${file##*/}: 80 columns, not $longest" [ "$longest" -le 80 ]
	done
}

test_missing()
{
	local words

	fresh_tree ours
	rm -rf "${root:?}/$SYSFS"
	for words in "" --json --prometheus -p "-w 1 -c 1" on off unmerge "set run 1"; do
		# shellcheck disable=SC2086 # words
		expect "no KSM: $words" 1 $words \
			<<<"ksmstat: no /sys/kernel/mm/ksm: this kernel has no KSM, or sysfs is \
not mounted"
	done
	mkdir "$root/$SYSFS"
	expect "no file at all" 1 -i 0 \
		<<<"ksmstat: /sys/kernel/mm/ksm: not offered by this kernel"

	fresh_tree base
	for words in ksm_zero_pages general_profit smart_scan pages_skipped advisor_mode; do
		rm "$root/$SYSFS/$words"
	done
	rm "$root/proc/meminfo"
	expect "an old kernel: page" 0 -i 0 <"$DATA/old.page"
	expect_line "an old kernel: null" '  "metadata_bytes": null,' -i 0 --json
	expect_line "an old kernel: set" "max_page_sharing: 256 already" set max_page_sharing 256
	expect "an old kernel: a key it has not" 1 set smart_scan 0 \
		<<<"ksmstat: smart_scan: not offered by this kernel"
}

# reads_as CONTENTS REASON: of pages_sharing, given to printf.
reads_as()
{
	fresh_tree ours
	# shellcheck disable=SC2059 # that is what it is for
	printf -- "$1" >"$root/$SYSFS/pages_sharing"
	expect_line "'$1': reason" "  - pages_sharing: $2" -i 0
	expect_line "'$1': nothing follows" "  saved now             not known" -i 0
	expect_line "'$1': null" '  "saved_bytes": null,' -i 0 --json
	run "$ksmstat" --prometheus
	if grep -q '^ksm_saved_bytes\|state="merged"' "$said"; then
		fail "'$1': left out" <"$said"
	else
		pass
	fi
}

test_numbers()
{
	local garbage

	for garbage in '' '\n' 'abc\n' '12abc\n' '0x10\n' ' 5\n' '5 \n' '+5\n' '5 6\n' '1e3\n' \
		'5\n6\n' '-\n' '--5\n' '1.5\n' '5\0\n' '\0' '\377\376\n' '%5000s\n'; do
		reads_as "$garbage" "unreadable (not a number)"
	done
	reads_as '-5\n' "unreadable (negative number)"
	reads_as '9223372036854775808\n' "unreadable (number too large)"
	reads_as '99999999999999999999999999\n' "unreadable (number too large)"
	fresh_tree ours
	rm "$root/$SYSFS/pages_sharing"
	mkdir "$root/$SYSFS/pages_sharing"
	expect_line "a directory" "  - pages_sharing: unreadable (Is a directory)" -i 0

	fresh_tree ours
	put pages_sharing 9223372036854775807
	expect "huge numbers: page" 0 -i 0 <"$DATA/huge.page"
	expect_line "huge numbers: null" '  "saved_bytes": null,' -i 0 --json
	put pages_sharing 2251799813685247
	expect_line "the most that can be saved" '  "saved_bytes": 9223372036854771712,' -i 0 --json
	expect_line "a share of it" "  unique                < 0.01 %      216 KiB  unchanged, no equal page yet" -i 0

	fresh_tree ours
	put general_profit 60000000
	expect_line "counters that do not agree" "  metadata              not known: counters do not agree" -i 0
	put general_profit -9223372036854775808
	expect_line "metadata beyond all bounds" \
		"  metadata              not known: numbers too large to be true" -i 0
	put pages_sharing 0
	put general_profit -1048576
	expect_line "a loss" "  net of metadata       -1.00 MiB" -i 0
}

test_permissions()
{
	if [ "$(id -u)" -eq 0 ] && ! command -v setpriv >/dev/null; then
		skip "without permission" "no setpriv here"
		return
	fi
	fresh_tree ours
	chmod 0 "$root/$SYSFS/pages_unshared" "$root/proc/42/"{ksm_stat,smaps_rollup}
	chmod 0 "$root/proc/43/ksm_stat"
	chmod a-w "$root/$SYSFS/run"
	cat >"$scratch/nobody" <<-EOF2
	#!/bin/bash
	$(declare -f as_nobody)
	NOBODY=$NOBODY as_nobody "$ksmstat" "\$@"
	EOF2
	chmod +x "$scratch/nobody"
	local ksmstat=$scratch/nobody
	expect_line "may not read: reason" "  - pages_unshared: not permitted; needs root" -i 0
	expect_line "may not read: the rest" \
		"  saved now             48.6 MiB (9.8 % of this machine's memory)" -i 0
	expect "may not read: processes" 0 -p <"$DATA/denied.processes"
	expect "may not write: off" 1 off <<<"ksmstat: run: not permitted; needs root"
	expect "may not write: unmerge" 1 unmerge <<<"ksmstat: run: not permitted; needs root"
	expect "may not write: set" 1 set run 0 <<<"ksmstat: run: not permitted; needs root"
	expect_file "may not write: nothing was" "$SYSFS/run" 1
	chmod 0 "$root/$SYSFS"
	expect "may not look into the directory" 1 -i 0 \
		<<<"ksmstat: /sys/kernel/mm/ksm: not permitted; needs root"
}

# hinted NAME ID...: are these all hints?
hinted()
{
	local name=$1 ids

	shift
	run "$ksmstat" --json -i 0
	ids=$(sed -n 's/^ *"id": "\(.*\)",$/\1/p' "$said" | xargs)
	if [ "$ids" = "$*" ]; then
		pass
	else
		fail "$name" <<<"hints: '$ids', not '$*'"
	fi
}

test_hints()
{
	fresh_tree ours
	hinted "nothing to say"
	put run 0
	hinted "stopped with merged pages" stopped
	put run 2
	put sleep_millisecs 0
	hinted "no hints on speed while it is off"
	put run 1
	put smart_scan 0
	hinted "settings" never-sleeps smart-scan
	put pages_to_scan 0
	hinted "scans nothing" scans-nothing never-sleeps smart-scan

	fresh_tree ours
	put pages_unshared 90000000
	put advisor_mode "[none] scan-time"
	# 90,012,717 pages, 25,000 in a second
	put pages_to_scan 500
	expect_line "a pass of an hour" "  to hash all of it     at least 1 h by the settings" -i 0
	hinted "a slow pass" slow-pass
	put pages_to_scan 501
	hinted "just not slow"
	put pages_to_scan 250
	put sleep_millisecs 30
	expect "the page with hints" 0 -i 0 <"$DATA/slow.page"
	put pages_to_scan 1
	put sleep_millisecs 4294967295
	expect_line "a pass of eternity" \
		"  to hash all of it     at least 1.2e+07 y by the settings" -i 0
	put pages_unshared 54
	put sleep_millisecs 2520595
	expect_line "a pass of a year" "  to hash all of it     at least 1 y 6 d by the settings" -i 0

	fresh_tree ours
	put general_profit -5000000
	put advisor_min_pages_to_scan 30001
	hinted "a loss, and limits that exclude each other" metadata advisor-limits
	for file in shared sharing unshared volatile; do
		put pages_$file 0
	done
	put general_profit 0
	put advisor_min_pages_to_scan 30000
	hinted "nothing is known" nothing-known
	put pages_volatile abc
	hinted "whether anything is known is not known"
}

# Empty pages are merged as well, and are not among the other pages.
test_zero_pages()
{
	local file

	fresh_tree ours
	put ksm_zero_pages 1000000
	put general_profit 4146161600
	expect "zero pages: page" 0 -i 0 <"$DATA/zero.page"
	expect_line "zero pages: known" '    "known": 1012717,' --json -i 0
	expect_line "zero pages: JSON" '    "zero": 1000000,' --json -i 0
	expect_line "zero pages: metrics" 'ksm_known_pages{state="zero"} 1000000' --prometheus
	LC_ALL=C expect "zero pages: lines" 0 -w 1 -c 1 <"$DATA/zero.watch"
	for file in shared sharing unshared volatile; do
		put pages_$file 0
	done
	hinted "nothing but zero pages"
	put run 0
	hinted "stopped with zero pages" stopped

	fresh_tree ours
	put pages_shared 10
	put pages_sharing 10
	put pages_unshared 100000
	put pages_volatile 0
	put ksm_zero_pages 2000000
	meanwhile move 3089220 2987762 420 900000000
	hinted_now "much CPU for many zero pages"
	put ksm_zero_pages 0
	meanwhile move 3149220 2987762 420 1800000000
	hinted_now "much CPU for little" little-merged
	put ksm_zero_pages garbage
	hinted "how many zero pages is not known"
}
