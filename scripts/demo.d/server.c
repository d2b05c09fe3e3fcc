// SPDX-License-Identifier: GPL-2.0-only
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server.h"

void server_connect(struct server *s, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	s->fd = socket(AF_UNIX, SOCK_STREAM, 0);
	s->name = path;
	s->start = 0;
	s->end = 0;
	if (s->fd < 0 ||
	    connect(s->fd, (struct sockaddr *)&address, sizeof(address)))
		err(1, "%s", path);
}

void server_send(struct server *s, const void *bytes, size_t len)
{
	const char *at = bytes;

	while (len) {
		ssize_t sent = write(s->fd, at, len);

		if (sent <= 0)
			err(1, "%s: cannot send", s->name);
		at += sent;
		len -= sent;
	}
}

void server_command(struct server *s, size_t count, const char **word,
		    const size_t *len)
{
	static char text[64 << 10];
	size_t at = sprintf(text, "*%zu\r\n", count);

	for (size_t i = 0; i < count; i++) {
		if (at + len[i] + 32 > sizeof(text))
			errx(1, "%s: a command is too long", s->name);
		at += sprintf(text + at, "$%zu\r\n", len[i]);
		memcpy(text + at, word[i], len[i]);
		at += len[i];
		at += sprintf(text + at, "\r\n");
	}
	server_send(s, text, at);
}

/* Reads more; makes room first by moving what is left to the front. */
static void read_more(struct server *s)
{
	ssize_t got;

	memmove(s->buffer, s->buffer + s->start, s->end - s->start);
	s->end -= s->start;
	s->start = 0;
	if (s->end == sizeof(s->buffer))
		errx(1, "%s: a reply is too long", s->name);
	got = read(s->fd, s->buffer + s->end, sizeof(s->buffer) - s->end);
	if (got < 0)
		err(1, "%s: cannot read", s->name);
	if (!got)
		errx(1, "%s: the server closed the connection", s->name);
	s->end += got;
}

/* The next line without its "\r\n", as a string. */
static char *take_line(struct server *s)
{
	char *end, *line;

	while (!(end = memchr(s->buffer + s->start, '\n', s->end - s->start)))
		read_more(s);
	line = s->buffer + s->start;
	if (end == line || end[-1] != '\r')
		errx(1, "%s: a reply without an end of line", s->name);
	end[-1] = '\0';
	s->start = end + 1 - s->buffer;
	return line;
}

const char *server_line(struct server *s, char mark)
{
	char *line = take_line(s);

	if (*line != mark)
		errx(1, "%s: unexpected reply: %s", s->name, line);
	return line + 1;
}

const char *server_bulk(struct server *s, size_t *len)
{
	long announced = strtol(server_line(s, '$'), NULL, 10);
	const char *bytes;

	if (announced < 0)
		return NULL;
	while (s->end - s->start < (size_t)announced + 2)
		read_more(s);
	bytes = s->buffer + s->start;
	s->start += announced + 2;
	*len = announced;
	return bytes;
}
