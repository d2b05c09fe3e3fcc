/* SPDX-License-Identifier: GPL-2.0-only */
/* A connection to one redis server. Every error ends the program. */
#ifndef DEMO_SERVER_H
#define DEMO_SERVER_H

#include <stddef.h>

/**
 * struct server - a connection with what was read ahead
 * @fd: the socket
 * @name: its path, for messages
 * @start: first byte of @buffer not yet taken
 * @end: end of the bytes read
 * @buffer: bytes read; holds at least one reply of the largest value
 */
struct server {
	int fd;
	const char *name;
	size_t start;
	size_t end;
	char buffer[256 << 10];
};

void server_connect(struct server *s, const char *path);

/* Sends @len bytes, one or more commands. */
void server_send(struct server *s, const void *bytes, size_t len);

/* Sends a command of @count words; a word may hold any bytes. */
void server_command(struct server *s, size_t count, const char **word,
		    const size_t *len);

/* Takes a reply that must begin with @mark ('+', ':'), gives its line. */
const char *server_line(struct server *s, char mark);

/*
 * Takes a bulk reply. Its bytes stay valid until the next call. NULL when the
 * server has no such key.
 */
const char *server_bulk(struct server *s, size_t *len);

#endif
