// SPDX-License-Identifier: GPL-2.0-only
#include <err.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "records.h"

struct text {
	const char *at;
	const char *end;
};

static const char *map_file(const char *path, size_t *len)
{
	struct stat st;
	int fd = open(path, O_RDONLY);
	void *map;

	if (fd < 0 || fstat(fd, &st))
		err(1, "%s", path);
	map = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		err(1, "%s", path);
	*len = st.st_size;
	return map;
}

/* A line "<mark><number>\r\n": its number. */
static size_t take_number(struct text *t, char mark)
{
	char *after;
	size_t number;

	if (t->end - t->at < 4 || *t->at != mark)
		errx(1, "the data set is broken: no '%c' where one must be", mark);
	number = strtoul(t->at + 1, &after, 10);
	t->at = after + 2;
	return number;
}

/* A bulk string "$<len>\r\n<bytes>\r\n": its bytes. */
static const char *take_bulk(struct text *t, size_t *len)
{
	const char *bytes;

	*len = take_number(t, '$');
	bytes = t->at;
	if ((size_t)(t->end - bytes) < *len + 2)
		errx(1, "the data set is broken: it ends inside a value");
	t->at = bytes + *len + 2;
	return bytes;
}

static struct record take_record(struct text *t)
{
	struct record r = { .command = t->at };
	size_t verb_len;

	if (take_number(t, '*') != 3)
		errx(1, "the data set is broken: a command is not SET");
	take_bulk(t, &verb_len);
	r.key = take_bulk(t, &r.key_len);
	r.value = take_bulk(t, &r.value_len);
	r.command_len = t->at - r.command;
	return r;
}

struct records records_open(const char *path)
{
	struct records all = { 0 };
	struct text text;
	size_t len, room = 0;

	text.at = map_file(path, &len);
	text.end = text.at + len;
	while (text.at < text.end) {
		if (all.count == room) {
			room = room ? 2 * room : 4096;
			all.record = realloc(all.record, room * sizeof(*all.record));
			if (!all.record)
				err(1, "records");
		}
		all.record[all.count] = take_record(&text);
		all.value_bytes += all.record[all.count++].value_len;
	}
	return all;
}
