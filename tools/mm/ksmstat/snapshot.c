// SPDX-License-Identifier: GPL-2.0-only
/*
 * All that the kernel tells about KSM as a whole, read at one time.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ksmstat.h"

#define MAX_PATH	64	/* of paths that are made here */
#define KTHREAD		0x00200000	/* among the flags in /proc/PID/stat */
#define MAX_TRIES	5	/* to read counters that fit together */

static const char * const names[KSM_NR_FILES] = {
	[KSM_RUN] = "run",
	[KSM_PAGES_TO_SCAN] = "pages_to_scan",
	[KSM_SLEEP_MILLISECS] = "sleep_millisecs",
	[KSM_MERGE_ACROSS_NODES] = "merge_across_nodes",
	[KSM_USE_ZERO_PAGES] = "use_zero_pages",
	[KSM_MAX_PAGE_SHARING] = "max_page_sharing",
	[KSM_CHAINS_PRUNE_MILLISECS] = "stable_node_chains_prune_millisecs",
	[KSM_SMART_SCAN] = "smart_scan",
	[KSM_ADVISOR_MAX_CPU] = "advisor_max_cpu",
	[KSM_ADVISOR_MIN_PAGES] = "advisor_min_pages_to_scan",
	[KSM_ADVISOR_MAX_PAGES] = "advisor_max_pages_to_scan",
	[KSM_ADVISOR_TARGET] = "advisor_target_scan_time",
	[KSM_PAGES_SHARED] = "pages_shared",
	[KSM_PAGES_SHARING] = "pages_sharing",
	[KSM_PAGES_UNSHARED] = "pages_unshared",
	[KSM_PAGES_VOLATILE] = "pages_volatile",
	[KSM_PAGES_SCANNED] = "pages_scanned",
	[KSM_PAGES_SKIPPED] = "pages_skipped",
	[KSM_ZERO_PAGES] = "ksm_zero_pages",
	[KSM_FULL_SCANS] = "full_scans",
	[KSM_CHAINS] = "stable_node_chains",
	[KSM_DUPS] = "stable_node_dups",
	[KSM_PROFIT] = "general_profit",
};

/* Has the kernel KSM? If not, says so. */
bool ksm_is_there(void)
{
	int err = source_missing(KSM_DIR);

	if (err == -ENOENT)
		complain("no " KSM_DIR ": this kernel has no KSM, or sysfs is not mounted");
	else if (err)
		complain(KSM_DIR ": %s", reason(err));
	return !err;
}

const char *ksm_file_name(enum ksm_file file)
{
	return names[file];
}

struct figure ksm_file_read(enum ksm_file file)
{
	char path[MAX_PATH];

	snprintf(path, sizeof(path), KSM_DIR "/%s", names[file]);
	return source_number(path, file == KSM_PROFIT);
}

/**
 * ksm_advisor_read - the mode that is chosen in advisor_mode
 * @mode: where to; of "none [scan-time]" it is "scan-time"
 *
 * A recorded tree may hold just the word that was written to it.
 *
 * Return: 0 or a negative errno.
 */
int ksm_advisor_read(char mode[ADVISOR_TEXT])
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789_-";
	char text[SOURCE_TEXT], *word = text, *end;
	int err = source_read(KSM_DIR "/advisor_mode", text, sizeof(text));

	if (err)
		return err;
	if (strchr(text, '[')) {
		word = strchr(text, '[') + 1;
		end = strchr(word, ']');
		if (!end)
			return -EINVAL;
		*end = '\0';
	}
	if (!*word || word[strspn(word, allowed)] || strlen(word) >= ADVISOR_TEXT)
		return -EINVAL;
	memcpy(mode, word, strlen(word) + 1);
	return 0;
}

/**
 * stat_field - a number of /proc/PID/stat
 * @stat: what is in the file
 * @number: which, as proc(5) numbers them, from 4 on
 *
 * The name of a program may hold blanks and brackets, so what follows it begins
 * at the last bracket.
 *
 * Return: the number.
 */
struct figure stat_field(const char *stat, unsigned int number)
{
	const char *field = strrchr(stat, ')');
	char word[32];
	size_t len;

	for (unsigned int i = 2; field && i < number; i++)
		field = strchr(field + 1, ' ');
	if (!field)
		return figure_unknown(NOT_A_NUMBER);
	len = strcspn(field + 1, " ");
	if (len >= sizeof(word))
		return figure_unknown(NOT_A_NUMBER);
	memcpy(word, field + 1, len);
	word[len] = '\0';
	return figure_parse(word, true);
}

/* Is it /proc/PID/stat of a kernel thread? */
bool stat_is_kthread(const char *stat)
{
	struct figure flags = stat_field(stat, 9);

	return !flags.err && (flags.value & KTHREAD);
}

/* A program may have the name, and in a container a parent with PID 2, too. */
static bool is_ksmd(long pid, char stat[SOURCE_TEXT])
{
	char path[MAX_PATH];
	const char *name;

	snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
	if (source_read(path, stat, SOURCE_TEXT))
		return false;
	name = strchr(stat, '(');
	return name && !strncmp(name, "(ksmd) ", 7) && figure_is(stat_field(stat, 4), 2) &&
	       stat_is_kthread(stat);
}

/* Looks through /proc once; fills @stat. */
static struct figure find_ksmd(char stat[SOURCE_TEXT])
{
	static long last;
	struct dirent *entry;
	long pid = 0;
	DIR *proc;

	if (last && is_ksmd(last, stat))
		return figure_of(last);
	proc = source_open_dir("/proc");
	if (!proc)
		return figure_unknown(errno == ENOENT ? NO_PROC : -errno);
	while (!pid && (entry = readdir(proc))) {
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		pid = strtol(entry->d_name, NULL, 10);
		if (!is_ksmd(pid, stat))
			pid = 0;
	}
	closedir(proc);
	last = pid;
	return pid ? figure_of(pid) : figure_unknown(-ESRCH);
}

/* The scheduler's sum is exact; without it, which reads 0 then, there are ticks. */
static void read_cpu_time(struct snapshot *s)
{
	char stat[SOURCE_TEXT], text[SOURCE_TEXT], path[MAX_PATH];
	struct figure ticks;

	s->ksmd = find_ksmd(stat);
	if (s->ksmd.err) {
		s->cpu_ns = figure_unknown(s->ksmd.err);
		return;
	}
	snprintf(path, sizeof(path), "/proc/%lld/schedstat", s->ksmd.value);
	if (!source_read(path, text, sizeof(text))) {
		text[strcspn(text, " ")] = '\0';
		s->cpu_ns = figure_parse(text, false);
		s->cpu_is_fine = figure_above(s->cpu_ns, 0);
		if (s->cpu_is_fine)
			return;
	}
	ticks = figure_add(stat_field(stat, 14), stat_field(stat, 15));
	s->cpu_ns = figure_mul(ticks, figure_of(NSEC_PER_SEC / sysconf(_SC_CLK_TCK)));
	if (!s->cpu_ns.err && s->cpu_ns.value < 0)
		s->cpu_ns = figure_unknown(NEGATIVE);
}

/* Counters that figures are made of must not move between one and the next. */
static void read_together(struct snapshot *s)
{
	struct figure sharing, zero;

	for (int i = 0; i < MAX_TRIES; i++) {
		sharing = s->file[KSM_PAGES_SHARING];
		zero = s->file[KSM_ZERO_PAGES];
		s->file[KSM_PROFIT] = ksm_file_read(KSM_PROFIT);
		s->file[KSM_PAGES_SHARING] = ksm_file_read(KSM_PAGES_SHARING);
		s->file[KSM_ZERO_PAGES] = ksm_file_read(KSM_ZERO_PAGES);
		if (sharing.value == s->file[KSM_PAGES_SHARING].value &&
		    zero.value == s->file[KSM_ZERO_PAGES].value)
			break;
	}
}

/**
 * meminfo_bytes - a line of /proc/meminfo
 * @name: its first word, with the colon
 *
 * Return: bytes.
 */
struct figure meminfo_bytes(const char *name)
{
	char text[SOURCE_TEXT];
	int err = source_read("/proc/meminfo", text, sizeof(text));
	struct figure kib;

	if (err)
		return figure_unknown(err == -ENOENT ? NO_PROC : err);
	kib = source_line(text, name);
	if (!kib.err && kib.value < 0)
		return figure_unknown(NEGATIVE);
	return figure_mul(kib, figure_of(1024));
}

/**
 * snapshot_take - read all there is
 * @snapshot: where to
 */
void snapshot_take(struct snapshot *snapshot)
{
	struct timespec now;

	*snapshot = (struct snapshot){ 0 };
	for (int file = 0; file < KSM_NR_FILES; file++)
		snapshot->file[file] = ksm_file_read(file);
	read_together(snapshot);
	snapshot->advisor_err = ksm_advisor_read(snapshot->advisor);
	snapshot->memory = meminfo_bytes("MemTotal:");
	read_cpu_time(snapshot);
	clock_gettime(CLOCK_MONOTONIC, &now);
	snapshot->now_ns = now.tv_sec * NSEC_PER_SEC + now.tv_nsec;
}

/* Not one number could be read. */
bool snapshot_is_empty(const struct snapshot *snapshot)
{
	for (int file = 0; file < KSM_NR_FILES; file++)
		if (!snapshot->file[file].err)
			return false;
	return true;
}

struct figure page_size(void)
{
	return figure_of(sysconf(_SC_PAGESIZE));
}
