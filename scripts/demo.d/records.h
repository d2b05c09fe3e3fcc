/* SPDX-License-Identifier: GPL-2.0-only */
/* The data set as the guest reads it: a mapped file of SET commands. */
#ifndef DEMO_RECORDS_H
#define DEMO_RECORDS_H

#include <stddef.h>

/**
 * struct record - one SET command of the data set
 * @command: the command as it goes to a server
 * @command_len: its length in bytes
 * @key: the key inside @command
 * @key_len: its length in bytes
 * @value: the value inside @command
 * @value_len: its length in bytes
 */
struct record {
	const char *command;
	size_t command_len;
	const char *key;
	size_t key_len;
	const char *value;
	size_t value_len;
};

/**
 * struct records - all of them, in the order of the file
 * @record: the array
 * @count: its length
 * @value_bytes: what all values come to
 */
struct records {
	struct record *record;
	size_t count;
	size_t value_bytes;
};

/* Reads the file @path; ends the program with a clear line if it cannot. */
struct records records_open(const char *path);

#endif
