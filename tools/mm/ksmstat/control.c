// SPDX-License-Identifier: GPL-2.0-only
/*
 * Changes settings: on, off, unmerge, set.
 */
#include <errno.h>
#include <string.h>

#include "ksmstat.h"

/* Says why a setting could not be written. */
static int complain_of(const char *key, int err)
{
	complain("%s: %s", key, write_reason(err));
	return EXIT_FAILED;
}

/* A file descriptor or a negative errno. */
static int open_setting(const char *key)
{
	char path[128];

	snprintf(path, sizeof(path), KSM_DIR "/%s", key);
	return source_open_write(path);
}

static int write_setting(const char *key, const char *value)
{
	int fd = open_setting(key);

	return fd < 0 ? fd : source_write(fd, value);
}

static struct figure saved_now(void)
{
	struct snapshot now;
	struct derived derived;

	snapshot_take(&now);
	derive(&derived, NULL, &now);
	return derived.saved;
}

/* Prints how much that is, with what stands around it, if that is known. */
static void print_bytes(const char *before, struct figure bytes, const char *after)
{
	if (!bytes.err)
		printf("%s%s%s", before, text_bytes(bytes), after);
}

/* Says that the kernel began to unmerge, but did not end. */
static int complain_of_unmerging(int err)
{
	struct figure run = ksm_file_read(KSM_RUN);

	if (run.err)
		complain("not all could be unmerged: %s", strerror(-err));
	else
		complain("not all could be unmerged: %s; run is %lld now", strerror(-err),
			 run.value);
	return EXIT_FAILED;
}

/* Pages of their own need the memory that was saved. */
static bool has_room(struct figure saved)
{
	struct figure room = meminfo_bytes("MemAvailable:");

	if (room.err || !figure_above(saved, room.value))
		return true;
	complain("unmerging needs %s of memory, only %s are available; see unmerge --force",
		 text_bytes(saved), text_bytes(room));
	return false;
}

/* Tells how much memory was given back. */
static int unmerge(bool force)
{
	struct figure before = saved_now();
	int run, err;

	if (!force && !has_room(before))
		return EXIT_FAILED;
	run = open_setting("run");
	if (run < 0)
		return complain_of("run", run);
	printf("Unmerging");
	print_bytes(" ", before, "");
	printf("; this can take long ...\n");
	fflush(stdout);
	err = source_write(run, "2");
	if (err)
		return complain_of_unmerging(err);
	printf("KSM is off; each has pages of its own again");
	print_bytes(": ", figure_sub(before, saved_now()), " given back");
	printf(".\n");
	return EXIT_OK;
}

/**
 * control_switch - on, off or unmerge
 * @run: what run shall be
 * @force: unmerge, be there memory for it or not
 *
 * Return: an exit status.
 */
int control_switch(long long run, bool force)
{
	static const char * const words[] = { "off", "on", "off, and everything is unmerged" };
	struct figure old;
	int err;

	if (!ksm_is_there())
		return EXIT_FAILED;
	old = ksm_file_read(KSM_RUN);
	if (old.err) {
		complain("run: %s", reason(old.err));
		return EXIT_FAILED;
	}
	if (old.value == run) {
		printf("KSM is %s already.\n", words[run]);
		return EXIT_OK;
	}
	if (run == RUN_UNMERGE)
		return unmerge(force);
	err = write_setting("run", run == RUN_ON ? "1" : "0");
	if (err)
		return complain_of("run", err);
	printf("KSM is %s.\n", words[run]);
	if (run == RUN_OFF) {
		printf("What is merged stays merged");
		print_bytes(": ", saved_now(), " saved");
		printf(".\n");
	}
	return EXIT_OK;
}

/* Writes, looks what became of it, and tells both. */
static int change(int setting, const char *key, const char *old, const char *value)
{
	char new[ADVISOR_TEXT];
	int err = write_setting(key, value);

	if (err)
		return complain_of(key, err);
	err = setting_read(setting, new);
	if (!err && strcmp(new, value)) {
		complain("%s: the kernel made %s of %s", key, new, value);
		return EXIT_FAILED;
	}
	printf("%s: %s -> %s\n", key, old, value);
	return EXIT_OK;
}

/**
 * control_set - change a setting
 * @key: its name
 * @value: what it shall be
 *
 * Nothing is written that the kernel would refuse, as far as can be seen.
 *
 * Return: an exit status.
 */
int control_set(const char *key, const char *value)
{
	struct figure number = figure_parse(value, true);
	char why[WHY_SIZE], old[ADVISOR_TEXT], plain[ADVISOR_TEXT];
	int setting = setting_find(key), err;

	if (setting < 0) {
		complain("there is no setting '%s'; there are:", key);
		setting_list(stderr);
		return EXIT_USAGE;
	}
	if (!setting_is_valid(setting, value, why)) {
		complain("%s: '%s' will not do: %s", key, value, why);
		return EXIT_USAGE;
	}
	if (!ksm_is_there())
		return EXIT_FAILED;
	/* As the kernel will show it, without zeros before it. */
	if (!number.err) {
		snprintf(plain, sizeof(plain), "%lld", number.value);
		value = plain;
	}
	if (!strcmp(key, "run") && figure_is(number, RUN_UNMERGE))
		return control_switch(RUN_UNMERGE, false);
	err = setting_read(setting, old);
	if (err == -ENOENT)
		return complain_of(key, err);
	if (!err && !strcmp(old, value)) {
		printf("%s: %s already\n", key, value);
		return EXIT_OK;
	}
	if (!setting_is_possible(setting, value, why)) {
		complain("%s: %s", key, why);
		return EXIT_FAILED;
	}
	return change(setting, key, err ? "?" : old, value);
}
