# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Part of scripts/check.d/ksmstat: measuring, commands, options.

# What is used here and not set is set there.
# shellcheck disable=SC2154

# meanwhile COMMAND...: measures for three seconds, and runs the command when it has begun:
# the program sleeps then.
meanwhile()
{
	local pid

	KSMSTAT_ROOT=$root "$ksmstat" --json -i 3 >"$said" 2>&1 </dev/null &
	pid=$!
	until grep -q '^State:.S' "/proc/$pid/status" || ! kill -0 "$pid"; do
		sleep 0.05
	done 2>/dev/null
	"$@"
	status=0
	wait "$pid" || status=$?
}

# move SCANNED SKIPPED PASSES NANOSECONDS
move()
{
	put pages_scanned "$1"
	put pages_skipped "$2"
	put full_scans "$3"
	echo "$4 1 1" >"$root/proc/26/schedstat"
}

test_rates()
{
	fresh_tree ours
	meanwhile move 3089220 2987762 421 350000000
	expect_numbers "pages in a second" \
		'(j["pages_scanned_per_second"] * j["measured_seconds"] - 60000) ^ 2 < 1'
	expect_numbers "CPU share" \
		'(j["cpu_share"] * j["measured_seconds"] - 0.3) ^ 2 < 1e-9'
	expect_numbers "one pass that ended tells nothing, pages do" \
		'(j["pass_seconds_least"] / j["measured_seconds"] * 60000 / 12717 - 1) ^ 2 < 1e-9 && j["pass_seconds_most"] == j["pass_seconds_least"]'

	fresh_tree ours
	meanwhile move 3059220 3017762 420 50000000
	expect_numbers "no CPU time for pages scanned is too little to be measured" \
		'j["cpu_share"] == "null"'
	expect_numbers "pages passed over leave two bounds" \
		'(j["pass_seconds_most"] / j["pass_seconds_least"] - 2) ^ 2 < 1e-9'
	meanwhile move 3059220 3017762 431 50000000
	expect_numbers "several passes" \
		'(j["pass_seconds_least"] * 12 / j["measured_seconds"] - 1) ^ 2 + (j["pass_seconds_most"] * 10 / j["measured_seconds"] - 1) ^ 2 < 1e-9'
	meanwhile move 3059219 3017762 430 49999999
	expect_numbers "what goes back is not known" \
		'j["pages_scanned_per_second"] j["cpu_share"] j["pass_seconds_least"] == "nullnullnull"'

	put sleep_millisecs 60000
	meanwhile move 4059219 3017762 431 50000000
	expect_numbers "less than four sleeps tell nothing of a pass" \
		'j["pages_scanned_per_second"] > 0 && j["pass_seconds_least"] == "null"'
	expect_numbers "less than four sleeps are too short" 'j["measured_too_short"] == "true"'
	run "$ksmstat" -i 0.1
	holds "less than four sleeps: page" grep -qx \
		'                        in that time only: it sleeps too long; see -i' "$said"
	holds "less than four sleeps: page" grep -qx \
		'  pages scanned         4,059,219, 0 a second in that time only' "$said"

	fresh_tree ours
	put pages_unshared 300000000
	put pages_to_scan 100000
	meanwhile move 3029221 2987762 420 5000000000
	hinted_now "slow at this rate, and much CPU for little" little-merged slow-pass
	expect_numbers "long enough" 'j["measured_too_short"] == "false"'
	put sleep_millisecs 10000
	put pages_to_scan 4000000
	meanwhile move 3029222 2987762 420 10000000000
	hinted_now "no hint on one burst between two sleeps"
}

# hinted_now NAME ID...: as hinted, of what was said already.
hinted_now()
{
	local name=$1 ids

	shift
	ids=$(sed -n 's/^ *"id": "\(.*\)",$/\1/p' "$said" | xargs)
	if [ "$ids" = "$*" ]; then
		pass
	else
		fail "$name" <<<"hints: '$ids', not '$*'"
	fi
}

test_cpu_time()
{
	fresh_tree ours
	expect_line "exact CPU time" '    "cpu_seconds": 0.05,' --json -i 0
	echo "123456789012345678 0 0" >"$root/proc/26/schedstat"
	expect_line "all digits: JSON" '    "cpu_seconds": 123456789.012345678,' --json -i 0
	expect_line "all digits: metrics" 'ksm_cpu_seconds_total 123456789.012345678' --prometheus
	echo "100000000 0 0" >"$root/proc/26/schedstat"
	expect_line "no digits too many" 'ksm_cpu_seconds_total 0.1' --prometheus
	put sleep_millisecs 4294967295
	expect_line "all digits: a sleep" 'ksm_sleep_seconds 4294967.295' --prometheus
	echo "0 0 0" >"$root/proc/26/schedstat"
	sed -i 's/ 0 5 0 0 25 / 123 277 0 0 25 /' "$root/proc/26/stat"
	expect_line "ticks where schedstat is empty" '    "cpu_seconds": 4,' --json -i 0
	rm "$root/proc/26/schedstat"
	expect_line "ticks without schedstat" '    "cpu_seconds": 4,' --json -i 0
	sed -i 's/ 123 277 / 9223372036854775807 277 /' "$root/proc/26/stat"
	expect_line "too many ticks" "  - CPU time of ksmd: numbers too large to be true" -i 0
	sed -i 's/(ksmd) R 2 /(ksmd) R 1 /' "$root/proc/26/stat"
	expect_line "a program that is called ksmd" \
		"  - ksmd: not to be seen in /proc, as in a container or with hidepid" -i 0
	expect_line "a program that is called ksmd: null" '    "cpu_seconds": null,' --json -i 0
	sed -i 's/(ksmd) R 1 0 0 0 -1 2129984 /(ksmd) R 2 0 0 0 -1 4194304 /' "$root/proc/26/stat"
	expect_line "a program whose parent has PID 2, too: null" '    "pid": null,' --json -i 0
	rm -r "$root/proc"
	expect_line "no /proc" "  - CPU time of ksmd: not to be had without /proc" -i 0
}

test_set()
{
	fresh_tree base
	put advisor_mode "[none] scan-time"
	expect "set" 0 set pages_to_scan 501 <<<"pages_to_scan: 30000 -> 501"
	expect_file "set" "$SYSFS/pages_to_scan" 501
	expect "zeros before a number" 0 set pages_to_scan 00600 <<<"pages_to_scan: 501 -> 600"
	expect_file "zeros before a number" "$SYSFS/pages_to_scan" 600
	expect "set KEY=VALUE" 0 set sleep_millisecs=0 <<<"sleep_millisecs: 20 -> 0"
	expect_file "set KEY=VALUE" "$SYSFS/sleep_millisecs" 0
	expect "set to what it is" 0 set use_zero_pages 1 <<<"use_zero_pages: 1 already"
	expect "set the advisor" 0 set advisor_mode scan-time \
		<<<"advisor_mode: none -> scan-time"
	expect_file "set the advisor" "$SYSFS/advisor_mode" scan-time
	expect "pages_to_scan is the advisor's" 1 set pages_to_scan 7 <<<"ksmstat: pages_to_scan: \
advisor_mode is scan-time, so the kernel sets it; 'ksmstat set advisor_mode none' first"
	expect_file "pages_to_scan is the advisor's" "$SYSFS/pages_to_scan" 600
	expect "max_page_sharing while merged" 1 set max_page_sharing 100 <<<"ksmstat: \
max_page_sharing: cannot change while pages are merged; 'ksmstat unmerge' first"
	expect_file "max_page_sharing while merged" "$SYSFS/max_page_sharing" 256
	expect "a setting that is not there, while merged" 1 set merge_across_nodes 0 \
		<<<"ksmstat: merge_across_nodes: not offered by this kernel"
	put pages_shared 0
	expect "max_page_sharing" 0 set max_page_sharing 100 <<<"max_page_sharing: 256 -> 100"
	expect "limits of the advisor" 1 set advisor_min_pages_to_scan 30001 <<<"ksmstat: \
advisor_min_pages_to_scan: would be above advisor_max_pages_to_scan, which is 30000"
	expect "limits of the advisor" 1 set advisor_max_pages_to_scan 499 <<<"ksmstat: \
advisor_max_pages_to_scan: would be below advisor_min_pages_to_scan, which is 500"
	expect "the greatest number" 0 set stable_node_chains_prune_millisecs 4294967295 \
		<<<"stable_node_chains_prune_millisecs: 2000 -> 4294967295"
	rm "$root/$SYSFS/advisor_min_pages_to_scan"
	expect "no limits of the advisor" 1 set advisor_min_pages_to_scan 30001 \
		<<<"ksmstat: advisor_min_pages_to_scan: not offered by this kernel"
	put sleep_millisecs garbage
	expect "a setting that cannot be read" 0 set sleep_millisecs 30 \
		<<<"sleep_millisecs: ? -> 30"
	rm "$root/$SYSFS/smart_scan"
	ln -s smart_scan "$root/$SYSFS/smart_scan"
	expect "a file that cannot be written" 1 set smart_scan 0 \
		<<<"ksmstat: smart_scan: Too many levels of symbolic links"
}

# refused KEY VALUE WHY
refused()
{
	local before

	before=$(cat "$root/$SYSFS/"*)
	expect "set '$1' '$2'" 2 set "$1" "$2" <<<"ksmstat: $1: '$2' will not do: must be $3"
	if [ "$(cat "$root/$SYSFS/"*)" = "$before" ]; then
		pass
	else
		fail "set '$1' '$2' changes nothing" </dev/null
	fi
}

test_set_refused()
{
	local number value

	fresh_tree base
	put pages_shared 0
	number="a number from 1 to 4294967295 (pages)"
	for value in "" 0 -1 4294967296 99999999999999999999 1k 0x10 " 1" "1 " +1 abc 1.5; do
		refused pages_to_scan "$value" "$number"
	done
	refused run 3 "a number from 0 to 2 (0 off, 1 on, 2 off and unmerge)"
	refused run on "a number from 0 to 2 (0 off, 1 on, 2 off and unmerge)"
	refused max_page_sharing 1 "a number from 2 to 2147483647 (places)"
	refused merge_across_nodes 2 "a number from 0 to 1 (0 no, 1 yes)"
	refused use_zero_pages yes "a number from 0 to 1 (0 no, 1 yes)"
	refused advisor_mode "" "none or scan-time"
	refused advisor_mode scan "none or scan-time"
	refused advisor_max_cpu 101 "a number from 1 to 100 (percent of a CPU)"
	refused advisor_target_scan_time 0 "a number from 1 to 4294967295 (seconds)"
	run "$ksmstat" set pages_shared 1
	holds "set a counter" [ "$status" -eq 2 ]
	holds "set a counter: why not" \
		grep -qx "ksmstat: there is no setting 'pages_shared'; there are:" "$said"
}

test_switches()
{
	fresh_tree ours
	expect "on already" 0 on <<<"KSM is on already."
	expect "off" 0 off <<<"KSM is off.
What is merged stays merged: 48.6 MiB saved."
	expect_file "off" "$SYSFS/run" 0
	expect "on" 0 on <<<"KSM is on."
	expect_file "on" "$SYSFS/run" 1
	expect "unmerge" 0 unmerge <<<"Unmerging 48.6 MiB; this can take long ...
KSM is off; each has pages of its own again: 0 B given back."
	expect_file "unmerge" "$SYSFS/run" 2
	expect "unmerge already" 0 set run 2 <<<"KSM is off, and everything is unmerged already."
	put run 1
	put pages_sharing garbage
	expect "off, who knows what is saved" 0 off <<<"KSM is off.
What is merged stays merged."
	expect "unmerge, who knows how much" 0 unmerge <<<"Unmerging; this can take long ...
KSM is off; each has pages of its own again."
	put run garbage
	expect "on, who knows from what" 1 on <<<"ksmstat: run: unreadable (not a number)"
}

# available KIB: of memory
available()
{
	sed -i "s/^MemAvailable:.*/MemAvailable: $1 kB/" "$root/proc/meminfo"
}

test_unmerge_force()
{
	local refusal="ksmstat: unmerging needs 48.6 MiB of memory, only 48.5 MiB are available; \
see unmerge --force"
	local unmerged="Unmerging 48.6 MiB; this can take long ...
KSM is off; each has pages of its own again: 0 B given back."

	fresh_tree ours
	available 49700
	expect "unmerge with too little memory" 1 unmerge <<<"$refusal"
	expect "set run 2 with too little memory" 1 set run 2 <<<"$refusal"
	expect_file "unmerge with too little memory: nothing was written" "$SYSFS/run" 1
	expect "off needs no memory" 0 off <<<"KSM is off.
What is merged stays merged: 48.6 MiB saved."
	expect "unmerge --force" 0 unmerge --force <<<"$unmerged"
	expect_file "unmerge --force" "$SYSFS/run" 2
	put run 1
	available 49752
	expect "unmerge with just enough memory" 0 unmerge <<<"$unmerged"
	put run 1
	available garbage
	expect "unmerge, who knows with how much memory" 0 unmerge <<<"$unmerged"
	put run 1
	rm "$root/proc/meminfo"
	expect "unmerge without /proc" 0 unmerge <<<"$unmerged"
	expect_line "--force in the help" \
		"  unmerge        stop ksmd and give each process its own pages back; --force:" --help
}

# unmerge_says COMMAND...: what the command says that ends in ksmstat, to $said.
unmerge_says()
{
	local text

	# By a pipe, as no file may be written here.
	status=0
	text=$(KSMSTAT_ROOT=$root "$@" unmerge 2>&1 </dev/null) || status=$?
	printf '%s\n' "$text" >"$said"
}

without_files()
{
	trap '' XFSZ
	ulimit -f 0
	"$@"
}

test_unmerge_fails()
{
	local ro=("unshare" -m)

	fresh_tree ours
	unmerge_says without_files "$ksmstat"
	holds "unmerge: the write fails" diff - "$said" <<<"Unmerging 48.6 MiB; this can take long ...
ksmstat: not all could be unmerged: File too large"
	holds "unmerge: the write fails, status $status" [ "$status" -eq 1 ]

	[ "$(id -u)" -eq 0 ] || ro=("unshare" -rm)
	# shellcheck disable=SC2016 # of the inner shell
	ro+=(sh -c 'mount --bind -o ro "$1" "$1" && shift && exec "$@"' sh "$root/sys")
	fresh_tree ours
	if ! "${ro[@]}" true 2>/dev/null; then
		skip "unmerge where /sys is read-only" "nothing can be mounted here"
		return
	fi
	unmerge_says "${ro[@]}" "$ksmstat"
	holds "unmerge: read-only" diff - "$said" <<<"ksmstat: run: Read-only file system"
	holds "unmerge: read-only, status $status" [ "$status" -eq 1 ]
}

# process PID NAME MERGED: adds a process.
process()
{
	mkdir -p "$root/proc/$1"
	printf '%s (x) S 1 0 0 0 -1 0\n' "$1" >"$root/proc/$1/stat"
	printf '%s\n' "$2" >"$root/proc/$1/comm"
	printf 'ksm_rmap_items 10\nksm_merging_pages %s\nksm_process_profit 100\n' "$3" \
		>"$root/proc/$1/ksm_stat"
}

has_utf8()
{
	locale -a 2>/dev/null | grep -qi '^C.utf-\?8$'
}

test_processes()
{
	fresh_tree ours
	process 7 $'\e[31mred\n\\' 5
	process 8 $'\377\xc3\xa9"\t' garbage
	process 9 ') S 2 0' -1
	rm -r "$root/proc/43"
	LC_ALL=C expect "names: ASCII" 0 -p <"$DATA/names.processes"
	expect "names: JSON" 0 -p --json <"$DATA/names.json"
	printf '\xc2\x80\xc2\x9f\xc2\xa1\x7f\n' >"$root/proc/8/comm"
	expect_line "names: control characters in JSON" \
		$'      "command": "\\u0080\\u009f\xc2\xa1\\u007f",' -p --json
	expect "fewer lines" 0 -p -n 1 <"$DATA/few.processes"
	if has_utf8; then
		printf 'a\xc3\xa9\xe2\x80\xaeb\n' >"$root/proc/8/comm"
		LC_ALL=C.UTF-8 expect_line "names: UTF-8" \
			"      8          -      100 B            -           10  -    aé\\xe2\\x80\\xaeb" -p
		# An accent that joins the letter before it, a selector, a wide one.
		printf 'e\xcc\x81\xef\xb8\x8f\xe6\xbc\xa2\n' >"$root/proc/8/comm"
		LC_ALL=C.UTF-8 expect_line "names: of no width" \
			"      8          -      100 B            -           10  -    e\\xcc\\x81\\xef\\xb8\\x8f漢" -p
	else
		skip "names in UTF-8" "no locale C.UTF-8 here"
	fi

	fresh_tree ours
	rm "$root/proc/"*/ksm_stat
	expect "smaps_rollup in place of ksm_stat" 0 -p <"$DATA/smaps.processes"

	fresh_tree linux-6.1
	rm "$root/proc/"*/ksm_stat
	expect "Linux 5.19: ksm_merging_pages alone" 0 -p <"$DATA/linux-5.19.processes"
	echo garbage >"$root/proc/42/ksm_merging_pages"
	: >"$root/proc/43/ksm_merging_pages"
	expect_line "ksm_merging_pages: garbage" \
		"     42          -          -            -            -  -    sh" -p
	expect_line "ksm_merging_pages: empty, as of who has no memory" \
		'  "processes_total": 1,' -p --json

	rm -r "$root/proc/"[0-9]*
	expect "nothing in /proc" 1 -p <<<"ksmstat: /proc: what KSM is to a process is not \
offered by this kernel"
}

test_run()
{
	fresh_tree ours
	run "$ksmstat" run true
	if grep -qE 'this kernel cannot do that|may forget' "$said"; then
		skip "run" "$(tail -n 1 "$said")"
		return
	fi
	run setarch --uname-2.6 "$ksmstat" run true
	if grep -q 'Linux 2\.6 may forget' "$said"; then
		pass
	else
		fail "run on a kernel that forgets it" <"$said"
	fi
	expect "run: its output" 0 run echo a b <<<"a b"
	expect "run: its status" 5 run sh -c 'exit 5' </dev/null
	expect "run: options are the program's" 0 run echo -n --json < <(printf -- --json)
	expect "run --" 0 run -- echo -- <<<"--"
	expect "run: an option that is a program" 127 run -- --help \
		<<<"ksmstat: --help: No such file or directory"
	expect "run: not there" 127 run /nonexistent \
		<<<"ksmstat: /nonexistent: No such file or directory"
	expect "run: not to be run" 126 run / <<<"ksmstat: /: Permission denied"
	put run 0
	expect "run while off" 0 run echo a <<<"ksmstat: KSM is off: nothing will be merged \
until 'ksmstat on'
a"
	put run 1
	expect "run: merging is on" 0 run sed -n 's/ksm_merge_any: //p' /proc/self/ksm_stat <<<yes
}

# What fails before the program runs must not look like the program's own status.
test_run_fails()
{
	fresh_tree ours
	expect "run without a program" 125 run <<<"ksmstat: run needs a PROGRAM; see 'ksmstat --help'"
	expect "run -- without a program" 125 run -- \
		<<<"ksmstat: run needs a PROGRAM; see 'ksmstat --help'"
	expect "run with an option" 125 run --now true \
		<<<"ksmstat: run has no option '--now'; see 'ksmstat --help'"
	expect_line "run --help" "usage: ksmstat [-i SECONDS] [--json]" run --help
	expect_line "run -h" "usage: ksmstat [-i SECONDS] [--json]" run -h
	if ! cc -o "$scratch/no-merge" "$DATA/no-merge.c" 2>"$said" ||
		! "$scratch/no-merge" true 2>"$said"; then
		skip "run: the kernel refuses" "$(tail -n 1 "$said")"
		return
	fi
	run "$scratch/no-merge" "$ksmstat" run true
	holds "run: the kernel refuses, status $status" [ "$status" -eq 125 ]
	holds "run: the kernel refuses" diff - "$said" \
		<<<"ksmstat: memory cannot be offered for merging: Operation not permitted"
}

test_usage()
{
	local words

	fresh_tree ours
	while read -r words; do
		# shellcheck disable=SC2086 # words
		run "$ksmstat" $words
		if [ "$status" -eq 2 ] && [ "$(wc -l <"$said")" -eq 1 ]; then
			pass
		else
			fail "ksmstat $words" < <(echo "status $status"; cat "$said")
		fi
	done <<-'EOF2'
	-x
	--nonsense
	-i
	-i x
	-i -1
	-i 86401
	-i nan
	-i 1e1
	-w 0
	-w 0.09
	-w -p
	-w --json
	-c 1
	-w .
	-w .05
	-w .5 0
	-w 1 2 3
	-w 1 2x
	-w 1 on
	-w -c 0
	-w -c 1.5
	-n 1
	-p -n 0
	-p --prometheus
	-p -i 1
	-w -i 1
	--json --prometheus
	--prometheus -i 1
	nonsense
	on off
	off 1
	unmerge now
	unmerge --force now
	off --force
	--force unmerge
	set
	set run
	set run 1 1
	-p on
	-p run true
	EOF2
	while read -r words; do
		# shellcheck disable=SC2086 # words
		expect "names it: ksmstat ${words%:*}" 2 ${words%:*} \
			<<<"ksmstat: ${words#*:}; see 'ksmstat --help'"
	done <<-'EOF2'
	-x:there is no option '-x'
	-px:there is no option '-x'
	--nonsense:there is no option '--nonsense'
	-p --pro --nonsense=1:there is no option '--nonsense=1'
	--json=1:option '--json' takes no value
	--js=1:option '--json' takes no value
	-p -n:option '-n' lacks its value
	-w -c:option '-c' lacks its value
	-i:option '-i' lacks its value
	EOF2
	expect_line "help" "usage: ksmstat [-i SECONDS] [--json]" --help
	if KSMSTAT_ROOT=$root "$ksmstat" -i 0 >/dev/full 2>"$said"; then
		fail "a full disk" </dev/null
	else
		holds "a full disk" \
			grep -qx "ksmstat: cannot write: No space left on device" "$said"
	fi
}

# Each setting of --help is in the man page.
test_man_page()
{
	local setting

	run "$ksmstat" --help
	while read -r setting; do
		holds "$setting in the man page" \
			grep -qE "^\.BR? (.* )?$setting( |\$)" "$TOP/tools/mm/ksmstat/ksmstat.8"
	done < <(sed -n '1,/^Settings:/d; s/^  \([a-z_]*\): .*/\1/p' "$said")
}

# What others make of the output and the man page.
test_formats()
{
	local file

	if command -v python3 >/dev/null; then
		for file in "$DATA"/*.json; do
			holds "JSON of ${file##*/}" python3 -m json.tool "$file"
		done
	else
		skip "JSON" "no python3 here"
	fi
	if command -v mandoc >/dev/null; then
		holds "man page" mandoc -T lint -W warning "$TOP/tools/mm/ksmstat/ksmstat.8"
	else
		skip "man page" "no mandoc here"
	fi
}
