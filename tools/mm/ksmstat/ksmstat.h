/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ksmstat: what KSM saves and what it costs. The map of the program:
 *
 *   main.c      words of the command line
 *   figure.c    numbers that may be unknown, and why
 *   source.c    files of the kernel, or of a recorded tree
 *   snapshot.c  all files of KSM, and ksmd's CPU time, at one time
 *   derive.c    what follows from one or two snapshots
 *   hints.c     settings that are unwise
 *   text.c      numbers in words and units, names that may be hostile
 *   report.c    the page of figures
 *   watch.c     a line each few seconds
 *   process.c   what is known of each process, process_show.c: shown
 *   export.c    JSON and Prometheus, json.c: JSON's syntax
 *   control.c   on, off, unmerge, set; setting.c: what may be set
 *   launch.c    run a program
 *
 * Words: pages that are "known" are those that KSM keeps count of. They are
 * merged (share a copy), zero (empty: the kernel's zero page stands for them), unique
 * (stayed the same, no equal one so far) or changing (new, or written to too often).
 * "Saved" are bytes that merging saves, metadata not subtracted; "net" is with it
 * subtracted.
 */
#ifndef KSMSTAT_H
#define KSMSTAT_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

#define NSEC_PER_SEC	1000000000LL

/* Exit statuses; those of run are as env(1) and timeout(1) have them. */
enum {
	EXIT_OK		= 0,
	EXIT_FAILED	= 1,
	EXIT_USAGE	= 2,
	EXIT_RUN_FAILED	= 125,
	EXIT_CANNOT_RUN	= 126,
	EXIT_NOT_FOUND	= 127,
};

/* Reasons that are no errors of the system; see reason(). */
#define NOT_A_NUMBER	(-EBADMSG)
#define TOO_LARGE	(-ERANGE)
#define BEYOND		(-EOVERFLOW)
#define NEGATIVE	(-EDOM)
#define DISAGREE	(-ESTALE)
#define NOT_MEASURED	(-ENODATA)
#define NO_PROC		(-ENODEV)

/**
 * struct figure - a number of the kernel's, or what follows from some
 * @err: 0, or why it is unknown: a negative errno; then @value means nothing
 * @value: the number
 */
struct figure {
	int err;
	long long value;
};

struct figure figure_of(long long value);
struct figure figure_unknown(int err);
struct figure figure_add(struct figure a, struct figure b);
struct figure figure_sub(struct figure a, struct figure b);
struct figure figure_mul(struct figure a, struct figure b);
struct figure figure_parse(const char *text, bool may_be_negative);
double figure_ratio(struct figure a, struct figure b);
bool figure_is(struct figure f, long long value);
bool figure_above(struct figure f, long long value);
const char *reason(int err);
const char *write_reason(int err);

/* source.c; paths are the kernel's own, such as /proc/meminfo. */
#define SOURCE_TEXT	4096	/* no file that is read as a whole is longer */

int source_missing(const char *path);
DIR *source_open_dir(const char *path);
int source_read(const char *path, char *text, size_t size);
int source_open_write(const char *path);
int source_write(int fd, const char *text);
struct figure source_number(const char *path, bool may_be_negative);
struct figure source_line(const char *text, const char *name);

/* Files of /sys/kernel/mm/ksm that hold a number; names are in snapshot.c. */
enum ksm_file {
	KSM_RUN,
	KSM_PAGES_TO_SCAN,
	KSM_SLEEP_MILLISECS,
	KSM_MERGE_ACROSS_NODES,
	KSM_USE_ZERO_PAGES,
	KSM_MAX_PAGE_SHARING,
	KSM_CHAINS_PRUNE_MILLISECS,
	KSM_SMART_SCAN,
	KSM_ADVISOR_MAX_CPU,
	KSM_ADVISOR_MIN_PAGES,
	KSM_ADVISOR_MAX_PAGES,
	KSM_ADVISOR_TARGET,
	KSM_NR_SETTINGS,
	KSM_PAGES_SHARED = KSM_NR_SETTINGS,
	KSM_PAGES_SHARING,
	KSM_PAGES_UNSHARED,
	KSM_PAGES_VOLATILE,
	KSM_PAGES_SCANNED,
	KSM_PAGES_SKIPPED,
	KSM_ZERO_PAGES,
	KSM_FULL_SCANS,
	KSM_CHAINS,
	KSM_DUPS,
	KSM_PROFIT,
	KSM_NR_FILES,
};

#define KSM_DIR		"/sys/kernel/mm/ksm"
#define ADVISOR_TEXT	32

/* Values of run. */
enum {
	RUN_OFF,
	RUN_ON,
	RUN_UNMERGE,
};

/**
 * struct snapshot - what the kernel tells, read once
 * @file: contents of the files
 * @advisor: the mode that is chosen in advisor_mode
 * @advisor_err: 0, or why @advisor is unknown
 * @ksmd: PID of ksmd; unknown where it cannot be seen
 * @cpu_ns: CPU time of ksmd since boot
 * @cpu_is_fine: @cpu_ns is exact, not counted in ticks
 * @memory: bytes of memory of the machine
 * @now_ns: when it was read; of a clock that never goes back
 */
struct snapshot {
	struct figure file[KSM_NR_FILES];
	char advisor[ADVISOR_TEXT];
	int advisor_err;
	struct figure ksmd;
	struct figure cpu_ns;
	bool cpu_is_fine;
	struct figure memory;
	int64_t now_ns;
};

bool ksm_is_there(void);
const char *ksm_file_name(enum ksm_file file);
struct figure ksm_file_read(enum ksm_file file);
int ksm_advisor_read(char mode[ADVISOR_TEXT]);
void snapshot_take(struct snapshot *snapshot);
bool snapshot_is_empty(const struct snapshot *snapshot);
struct figure stat_field(const char *stat, unsigned int number);
bool stat_is_kthread(const char *stat);
struct figure meminfo_bytes(const char *name);
struct figure page_size(void);

/**
 * struct derived - what follows from snapshots
 * @saved: bytes saved, metadata not subtracted
 * @net: bytes saved less metadata
 * @metadata: bytes
 * @merged: pages that share a copy with others
 * @zero: empty pages that the kernel's zero page stands for
 * @equal: both of these
 * @unique: pages that stayed the same and have no equal one so far
 * @changing: pages that are new or change too often
 * @known: the sum of these; without zero pages where the kernel does not count them
 * @to_scan: those of them that ksmd looks into, which zero pages are not
 * @saved_per_cpu: bytes saved now for each second of CPU that ksmd ever used
 * @seconds: measured for so long; 0 if not at all
 * @cpu_share: of one CPU, while measuring
 * @is_too_little: ksmd took less CPU time than the kernel's clock can tell
 * @scan_rate: pages counted as scanned in a second, while measuring
 * @is_too_short: measured for too few of ksmd's sleeps to tell more than of that time
 * @pass_least: seconds of a pass over what is to scan, at least
 * @pass_most: likewise, at most
 * @hash_rate: pages that ksmd may hash in a second by its settings, at most
 * @pass_by_settings: seconds that hashing all that is to scan takes then, at least
 *
 * A double that is unknown is NAN.
 */
struct derived {
	struct figure saved;
	struct figure net;
	struct figure metadata;
	struct figure merged;
	struct figure zero;
	struct figure equal;
	struct figure unique;
	struct figure changing;
	struct figure known;
	struct figure to_scan;
	double saved_per_cpu;
	double seconds;
	double cpu_share;
	bool is_too_little;
	double scan_rate;
	bool is_too_short;
	double pass_least;
	double pass_most;
	double hash_rate;
	double pass_by_settings;
};

void derive(struct derived *derived, const struct snapshot *before,
	    const struct snapshot *now);

#define MAX_HINTS	10

/**
 * struct hint - a setting that is unwise
 * @id: a name that stays the same
 * @text: a sentence for people
 */
struct hint {
	const char *id;
	char text[256];
};

unsigned int hints_find(struct hint hints[MAX_HINTS], const struct snapshot *now,
			const struct derived *derived);

/* text.c; what they return is good until 16 more calls. */
#define TEXT_SIZE	64

const char *text_bytes(struct figure bytes);
const char *text_bytes_of(double bytes);
const char *text_count(struct figure count);
const char *text_exact(long long value, long long units);
const char *text_duration(double seconds);
const char *text_percent(double share);
bool text_is_utf8(void);
void text_escape(char *to, size_t size, const char *from, size_t len);
bool text_seconds(const char *word, double least, double most, double *seconds);

/* process.c */
#define COMM_SIZE	64

/**
 * struct process - what KSM is to a process
 * @pid: of the process
 * @comm: its name, as the kernel gives it
 * @comm_len: bytes of it
 * @merged: pages that are merged
 * @zero: empty pages that became the zero page
 * @known: pages that KSM knows something of
 * @net: bytes saved less metadata
 * @saved: bytes saved, metadata not subtracted
 * @any: 1 if all its memory is offered
 * @mergeable: 1 if any is
 */
struct process {
	long pid;
	char comm[COMM_SIZE];
	size_t comm_len;
	struct figure merged;
	struct figure zero;
	struct figure known;
	struct figure net;
	struct figure saved;
	struct figure any;
	struct figure mergeable;
};

/**
 * struct process_list - processes that KSM has to do with, those that save most first
 * @process: the processes
 * @nr: their number
 * @room: for so many is room in @process
 * @denied: processes that could not be read, for want of permission
 * @failed: likewise, for another reason
 * @offered: the kernel tells of at least one process what KSM is to it
 */
struct process_list {
	struct process *process;
	size_t nr;
	size_t room;
	unsigned long denied;
	unsigned long failed;
	bool offered;
};

int processes_read(struct process_list *list);
int show_processes(size_t lines, bool json);

/* json.c */
void json_open(const char *key, char bracket);
void json_close(char bracket);
void json_figure(const char *key, struct figure value);
void json_double(const char *key, double value);
void json_seconds(const char *key, struct figure ns);
void json_truth(const char *key, struct figure value);
void json_bytes(const char *key, const char *bytes, size_t len);
void json_text(const char *key, const char *text);

/* What main() calls; all return an exit status. */
int show_report(double interval);
int show_json(double interval);
int show_prometheus(void);
int show_watch(double interval, unsigned long count);
int control_switch(long long run, bool force);
int control_set(const char *key, const char *value);
int launch(char **words);

/* setting.c */
#define WHY_SIZE	256

int setting_find(const char *key);
bool setting_is_valid(int setting, const char *value, char why[WHY_SIZE]);
bool setting_is_possible(int setting, const char *value, char why[WHY_SIZE]);
int setting_read(int setting, char value[ADVISOR_TEXT]);
void setting_list(FILE *out);

/* KSM's files, measured over @interval seconds where that is not 0. */
int measure(double interval, struct snapshot *now, struct derived *derived);
void complain(const char *format, ...) __attribute__
	((format(printf, 1, 2)));

#endif
