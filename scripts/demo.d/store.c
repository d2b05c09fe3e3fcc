// SPDX-License-Identifier: GPL-2.0-only
/*
 * store load|verify|change|verify-changed FILE SOCKET...: what the demo does to
 * its redis servers. One child works for each server, so that they run side by
 * side.
 *
 *   load            send all commands of FILE
 *   verify          read every value back and compare each byte with FILE
 *   change          change CHANGES keys: half get a new value, half are
 *                   overwritten in place
 *   verify-changed  as verify, with these changes expected
 */
#include <err.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "records.h"
#include "server.h"

#define CHANGES		1000
#define PATCH_BYTES	64	/* overwritten in place, at most */
#define BURST		16	/* commands sent before their replies are read */
#define MAX_VALUE	16384

enum change { KEPT, REPLACED, PATCHED };

static enum change change_of(const struct records *all, size_t i)
{
	size_t step = all->count / CHANGES;

	if (!step || i % step || i / step >= CHANGES)
		return KEPT;
	return i / step % 2 ? PATCHED : REPLACED;
}

/* Where the patch in the middle of a value begins, and how long it is. */
static size_t patch_place(const struct record *r, size_t *len)
{
	*len = r->value_len < PATCH_BYTES ? r->value_len : PATCH_BYTES;
	return (r->value_len - *len) / 2;
}

static void invert(char *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		bytes[i] = ~bytes[i];
}

/* The value after the change; changed bytes are the old ones inverted. */
static void changed_value(const struct record *r, enum change c, char *value)
{
	size_t at = 0, len = r->value_len;

	if (len > MAX_VALUE)
		errx(1, "the data set is broken: a value of %zu bytes", len);
	memcpy(value, r->value, len);
	if (c == PATCHED)
		at = patch_place(r, &len);
	if (c != KEPT)
		invert(value + at, len);
}

/*
 * In bursts that begin when the last one is done: quick, and each server sees
 * the same requests in the same pieces, so that all lay their memory out alike.
 */
static int load(struct server *s, const struct records *all)
{
	for (size_t i = 0, next; i < all->count; i = next) {
		const struct record *first = &all->record[i], *last;

		next = i + BURST < all->count ? i + BURST : all->count;
		last = &all->record[next - 1];
		server_send(s, first->command,
			    last->command + last->command_len - first->command);
		for (; i < next; i++)
			server_line(s, '+');
	}
	return 0;
}

static void replace(struct server *s, const struct record *r, const char *value)
{
	const char *word[] = { "SET", r->key, value };
	size_t len[] = { 3, r->key_len, r->value_len };

	server_command(s, 3, word, len);
	server_line(s, '+');
}

static void patch(struct server *s, const struct record *r, const char *value)
{
	char offset[24];
	size_t patch_len, at = patch_place(r, &patch_len);
	const char *word[] = { "SETRANGE", r->key, offset, value + at };
	size_t len[] = { 8, r->key_len, sprintf(offset, "%zu", at), patch_len };

	server_command(s, 4, word, len);
	server_line(s, ':');
}

static int change(struct server *s, const struct records *all)
{
	char value[MAX_VALUE];

	for (size_t i = 0; i < all->count; i++) {
		const struct record *r = &all->record[i];
		enum change c = change_of(all, i);

		changed_value(r, c, value);
		if (c == REPLACED)
			replace(s, r, value);
		else if (c == PATCHED)
			patch(s, r, value);
	}
	return 0;
}

static void ask_for(struct server *s, const struct record *r, size_t count)
{
	char text[BURST * 64];
	size_t len = 0;

	for (size_t i = 0; i < count; i++)
		len += snprintf(text + len, sizeof(text) - len, "GET %.*s\r\n",
				(int)r[i].key_len, r[i].key);
	if (len >= sizeof(text))
		errx(1, "the data set is broken: a key is too long");
	server_send(s, text, len);
}

/* Takes one value and compares it; says what is wrong with the first ones. */
static bool value_is_right(struct server *s, const struct record *r,
			   const char *expected, int wrong_before)
{
	size_t len, i = 0;
	const char *value = server_bulk(s, &len);

	if (value && len == r->value_len && !memcmp(value, expected, len))
		return true;
	if (wrong_before >= 3)
		return false;
	if (!value) {
		printf("%s: %.*s is missing\n", s->name, (int)r->key_len, r->key);
	} else if (len != r->value_len) {
		printf("%s: %.*s has %zu bytes, not %zu\n", s->name,
		       (int)r->key_len, r->key, len, r->value_len);
	} else {
		while (value[i] == expected[i])
			i++;
		printf("%s: %.*s differs from byte %zu of %zu on\n", s->name,
		       (int)r->key_len, r->key, i, len);
	}
	return false;
}

static int count_wrong(struct server *s, const struct records *all, bool changed)
{
	char expected[MAX_VALUE];
	int wrong = 0;

	for (size_t i = 0; i < all->count; i++) {
		const struct record *r = &all->record[i];

		if (i % BURST == 0)
			ask_for(s, r, all->count - i < BURST ? all->count - i : BURST);
		changed_value(r, changed ? change_of(all, i) : KEPT, expected);
		wrong += !value_is_right(s, r, expected, wrong);
	}
	return wrong;
}

static int verify(struct server *s, const struct records *all, bool changed)
{
	const char *word[] = { "DBSIZE" };
	size_t len[] = { 6 }, keys;
	int wrong = count_wrong(s, all, changed);

	if (wrong)
		printf("%s: %d of %zu values are wrong\n", s->name, wrong, all->count);
	server_command(s, 1, word, len);
	keys = strtoul(server_line(s, ':'), NULL, 10);
	if (keys != all->count)
		printf("%s: holds %zu keys, not %zu\n", s->name, keys, all->count);
	return wrong || keys != all->count;
}

static int work_for(const char *verb, const char *path, const struct records *all)
{
	static struct server s;

	server_connect(&s, path);
	if (!strcmp(verb, "load"))
		return load(&s, all);
	if (!strcmp(verb, "change"))
		return change(&s, all);
	if (!strcmp(verb, "verify"))
		return verify(&s, all, false);
	if (!strcmp(verb, "verify-changed"))
		return verify(&s, all, true);
	errx(2, "unknown verb %s", verb);
}

static void start_child(const char *verb, const char *path,
			const struct records *all)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		err(1, "fork");
	if (pid)
		return;
	status = work_for(verb, path, all);
	fflush(stdout);
	_exit(status);
}

int main(int argc, char **argv)
{
	struct records all;
	int status, result = 0;

	if (argc < 4)
		errx(2, "usage: store load|verify|change|verify-changed FILE SOCKET...");
	setvbuf(stdout, NULL, _IOLBF, 0);
	all = records_open(argv[2]);
	for (int i = 3; i < argc; i++)
		start_child(argv[1], argv[i], &all);
	while (wait(&status) > 0)
		result |= status;
	if (!result)
		printf("%zu values of %zu bytes in all, on %d server%s\n",
		       all.count, all.value_bytes, argc - 3, argc > 4 ? "s" : "");
	return result != 0;
}
