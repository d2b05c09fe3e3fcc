// SPDX-License-Identifier: GPL-2.0-only
/* Redis servers with the same data, to which a client goes on writing, alike to all. */
#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../demo.d/records.h"
#include "../demo.d/server.h"
#include "ksm.h"
#include "living.h"

#define DATA		"/bench/data.resp"
#define MAX_VALUE	16384
#define EVERY_NS	100000000ULL
#define WRITES		10	/* in each turn, to each server */
#define STEP		7919	/* a prime: from one key to the next */

static struct server *connect_all(unsigned int nr)
{
	struct server *servers = calloc(nr, sizeof(*servers));
	char path[64];

	if (!servers)
		err(1, "calloc");
	for (unsigned int i = 0; i < nr; i++) {
		snprintf(path, sizeof(path), "/run/redis-%u.sock", i + 1);
		server_connect(&servers[i], strdup(path));
	}
	return servers;
}

/* A new value, of the old one's length, for the key of a record. */
static void overwrite(struct server *server, const struct record *r, unsigned int turn)
{
	static char value[MAX_VALUE];
	const char *words[] = { "SET", r->key, value };
	uint64_t mask = turn * 0x0101010101010101ULL, word;
	size_t len[] = { 3, r->key_len, r->value_len };

	if (r->value_len > sizeof(value))
		errx(1, "the data set is broken: a value of %zu bytes", r->value_len);
	memcpy(value, r->value, r->value_len);
	for (size_t i = 0; i + sizeof(word) <= r->value_len; i += sizeof(word)) {
		memcpy(&word, value + i, sizeof(word));
		word ^= mask;
		memcpy(value + i, &word, sizeof(word));
	}
	server_command(server, 3, words, len);
}

/* All is sent before replies are read: switching between processes costs an emulator much. */
static void overwrite_some(struct server *server, const struct records *all, unsigned int turn)
{
	size_t first = (size_t)turn * WRITES;

	for (size_t i = first; i < first + WRITES; i++)
		overwrite(server, &all->record[i * STEP % all->count], turn);
	for (int i = 0; i < WRITES; i++)
		server_line(server, '+');
}

static void __attribute__((noreturn)) be_client(unsigned int nr, uint64_t from)
{
	struct records all = records_open(DATA);
	struct server *servers = connect_all(nr);

	for (unsigned int turn = 1; ; turn++) {
		uint64_t begun;

		sleep_until(from + turn * EVERY_NS);
		begun = clock_ns();
		for (unsigned int i = 0; i < nr; i++)
			overwrite_some(&servers[i], &all, turn);
		note_turn(&turns[0], clock_ns() - begun);
	}
}

/* PAGES of anonymous memory, in all servers together, come from the environment. */
void run_redis(const struct set *set)
{
	const char *pages = getenv("PAGES");
	uint64_t from = clock_ns();
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (!pages)
		errx(1, "PAGES is not set");
	if (!pid)
		be_client(set->processes, from);
	measure(from, set->seconds, atof(pages) * (set->processes - 1) / set->processes, true);
	print_turns("write", turns, 1);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}
