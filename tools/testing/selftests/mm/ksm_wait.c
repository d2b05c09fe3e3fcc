// SPDX-License-Identifier: GPL-2.0-only
/* Waiting for what ksmd does, see ksm_util.h. */

#define _GNU_SOURCE
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "ksm_util.h"

#define HOUR	(3600 * 1000)	/* as sleep_millisecs */

#define LOOK_MILLISECS	50	/* between two looks at ksmd's progress */

void ksm_pause(void)
{
	const struct timespec millisec = { .tv_nsec = 1000000 };

	nanosleep(&millisec, NULL);
}

static uint64_t millisecs_of(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000ULL + now.tv_nsec / 1000000;
}

uint64_t ksm_now_millisecs(void)
{
	return millisecs_of(CLOCK_MONOTONIC);
}

/**
 * ksm_tick_millisecs - the time by which the kernel's sleeps end
 *
 * A machine that is held up has fewer ticks, and a sleep that begins before it has made
 * up for them is short by any other clock.
 *
 * Return: milliseconds since some time.
 */
uint64_t ksm_tick_millisecs(void)
{
	return millisecs_of(CLOCK_MONOTONIC_COARSE);
}

/**
 * ksm_may_wait - can what has not come yet be expected to?
 * @wait: what was seen so far
 * @own: some figure of the caller's; if it changes, the wait begins anew
 *
 * Return: false if neither ksmd nor @own has moved for KSM_STILL_SECONDS, or if ksmd
 * made KSM_VAIN_PASSES in no less than KSM_VAIN_SECONDS. Says which.
 */
bool ksm_may_wait(struct ksm_wait *wait, long own)
{
	uint64_t now = ksm_now_millisecs();
	long scans, scanned;

	if (wait->looked && now - wait->looked < LOOK_MILLISECS)
		return true;
	scans = ksm_get("full_scans");
	scanned = ksm_get("pages_scanned");
	if (!wait->looked || own != wait->own) {
		*wait = (struct ksm_wait){ .begun = now, .moved = now, .scans = scans, .own = own };
	} else if (scanned != wait->scanned) {
		wait->moved = now;
	} else if (now - wait->moved > KSM_STILL_SECONDS * 1000) {
		fprintf(stderr, "# nothing has moved for %d s\n", KSM_STILL_SECONDS);
		return false;
	}
	wait->looked = now;
	wait->scanned = scanned;
	if (scans - wait->scans < KSM_VAIN_PASSES || now - wait->begun < KSM_VAIN_SECONDS * 1000)
		return true;
	fprintf(stderr, "# %ld passes in %llu ms were in vain\n", scans - wait->scans,
		(unsigned long long)(now - wait->begun));
	return false;
}

/**
 * ksm_wait_passes - wait for full passes that begin from now on
 * @passes: how many
 *
 * Return: whether they came to an end within the limit, and the checker is content.
 */
bool ksm_wait_passes(unsigned int passes)
{
	long first = ksm_get("full_scans");

	/* The pass that is under way does not count. */
	return ksm_wait_until(ksm_get("full_scans") > first + (long)passes) && ksm_check();
}

static char ksmd_state_in(int pid)
{
	char path[64], text[64], state = '\0';

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (!ksm_read_text(path, text, sizeof(text)))
		sscanf(text, "%*d (ksmd) %c", &state);
	return state;
}

/**
 * ksm_ksmd - find the scanner
 *
 * Return: ksmd's PID, or 0.
 */
pid_t ksm_ksmd(void)
{
	static pid_t pid;
	struct dirent *entry;
	DIR *proc;

	if (pid)
		return pid;
	proc = opendir("/proc");
	while (proc && !pid && (entry = readdir(proc))) {
		if (ksmd_state_in(atoi(entry->d_name)))
			pid = atoi(entry->d_name);
	}
	if (proc)
		closedir(proc);
	return pid;
}

/* How ksmd is, as in /proc/PID/stat: 'S' when it waits to be called. */
static char ksmd_state(void)
{
	return ksm_ksmd() ? ksmd_state_in(ksm_ksmd()) : '\0';
}

/**
 * ksm_one_pass - let ksmd make one pass and no more
 *
 * A turn is long enough for a pass and ends with it. Then ksmd sleeps for an hour,
 * or until its settings change, which is how it is called for the next. Not to be
 * mixed with ksm_wait_passes(). Something must be registered.
 *
 * Return: whether just one pass came to an end.
 */
bool ksm_one_pass(void)
{
	long scans = ksm_get("full_scans");
	int error = 0;

	/* Else the call might be missed. */
	if (!ksm_wait_until(ksmd_state() == 'S'))
		return false;
	if (ksm_get("run") != 1)
		error = ksm_set_number("pages_to_scan", UINT_MAX);
	error = error ? error : ksm_set_number("sleep_millisecs", HOUR);
	if (!error && ksm_get("run") != 1)
		error = ksm_set("run", "1");
	return !error && ksm_wait_until(ksm_get("full_scans") > scans && ksmd_state() == 'S') &&
	       ksm_get("full_scans") == scans + 1;
}

bool ksm_pass_by(unsigned int passes)
{
	while (passes--)
		if (!ksm_one_pass())
			return false;
	return ksm_check();
}

bool ksm_merge_all(void)
{
	return !ksm_set("run", "1") && ksm_wait_passes(KSM_MERGE_PASSES);
}
