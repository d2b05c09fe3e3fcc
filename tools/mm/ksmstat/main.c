// SPDX-License-Identifier: GPL-2.0-only
/*
 * ksmstat: what KSM saves and what it costs. Reads the command line; ksmstat.h is
 * the map of the program.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <locale.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ksmstat.h"

#define MAX_SECONDS	86400.0

enum format {
	FORMAT_TEXT,
	FORMAT_JSON,
	FORMAT_PROMETHEUS,
};

/**
 * struct options - what was asked for
 * @watch: -w
 * @processes: -p
 * @format: --json, --prometheus
 * @seconds: -w or -i; negative if not said
 * @has_interval: -i was said
 * @count: -c, 0 if not said
 * @lines: -n, 0 if not said
 */
struct options {
	bool watch;
	bool processes;
	enum format format;
	double seconds;
	bool has_interval;
	unsigned long count;
	unsigned long lines;
};

static const char help[] =
"usage: ksmstat [-i SECONDS] [--json]\n"
"       ksmstat --prometheus\n"
"       ksmstat -w [SECONDS [COUNT]] [-c COUNT]\n"
"       ksmstat -p [-n LINES] [--json]\n"
"       ksmstat on | off | unmerge [--force]\n"
"       ksmstat set KEY VALUE\n"
"       ksmstat run PROGRAM [ARGUMENT]...\n"
"\n"
"Shows what kernel samepage merging saves and what it costs, and changes it.\n"
"\n"
"  -i SECONDS     measure rates for so long (1; 0 does not measure)\n"
"  -w [SECONDS]   a line each so many seconds (2) until ^C\n"
"  -c COUNT       so many lines\n"
"  -p             processes by what they save\n"
"  -n LINES       no more than so many processes\n"
"  --json         one JSON object\n"
"  --prometheus   metrics in Prometheus' text format\n"
"  -h, --help     this text\n"
"\n"
"  on, off        start and stop ksmd; what is merged stays merged\n"
"  unmerge        stop ksmd and give each process its own pages back; --force:\n"
"                 even where more was saved than is available now\n"
"  set KEY VALUE  change a setting, if that makes sense now\n"
"  run PROGRAM    run a program, with all its memory offered for merging\n"
"\n"
"Examples:\n"
"  ksmstat                          is it on, and is it worth it?\n"
"  ksmstat -w 5                     how does it go on?\n"
"  sudo ksmstat -p -n 10            who saves most?\n"
"  sudo ksmstat on\n"
"  ksmstat run ./server --port 80   offer a program's memory\n"
"  sudo ksmstat set pages_to_scan 1000\n"
"  sudo ksmstat set advisor_mode=scan-time\n"
"  ksmstat --json -i 0 | jq .saved_bytes\n"
"\n"
"Settings:\n";

void complain(const char *format, ...)
{
	va_list args;

	fflush(stdout);
	fputs("ksmstat: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

static int usage(const char *what)
{
	complain("%s; see 'ksmstat --help'", what);
	return EXIT_USAGE;
}

static int show_help(void)
{
	fputs(help, stdout);
	setting_list(stdout);
	return EXIT_OK;
}

/* A number from 1 on. */
static bool read_count(const char *word, unsigned long *count)
{
	struct figure number = figure_parse(word, false);

	if (!figure_above(number, 0) || (unsigned long long)number.value > ULONG_MAX)
		return false;
	*count = number.value;
	return true;
}

/* Does the word begin as a number does? */
static bool is_like_number(const char *word)
{
	word += *word == '.';
	return *word >= '0' && *word <= '9';
}

/*
 * The seconds of -w may be in the same word, in the next, or not be said. The lines
 * may follow, as those of vmstat do.
 */
static const char *read_watch(int argc, char **argv, struct options *o)
{
	const char *word = optarg;

	o->watch = true;
	if (!word && optind < argc && is_like_number(argv[optind]))
		word = argv[optind++];
	if (!word)
		return NULL;
	if (!text_seconds(word, 0.1, MAX_SECONDS, &o->seconds))
		return "the SECONDS of -w must be a number from 0.1 to 86400";
	if (optind < argc && is_like_number(argv[optind]) &&
	    !read_count(argv[optind++], &o->count))
		return "COUNT must be a number from 1 on";
	return NULL;
}

/* What getopt_long() cannot make anything of. */
static const char *bad_option(int option, char **argv)
{
	static char text[256];

	if (option == ':')
		snprintf(text, sizeof(text), "option '-%c' lacks its value", optopt);
	else if (optopt == 'J' || optopt == 'P' || optopt == 'h')
		snprintf(text, sizeof(text), "option '--%s' takes no value",
			 optopt == 'J' ? "json" : optopt == 'P' ? "prometheus" : "help");
	else if (optopt)
		snprintf(text, sizeof(text), "there is no option '-%c'", optopt);
	else
		snprintf(text, sizeof(text), "there is no option '%s'", argv[optind - 1]);
	return text;
}

static const char *take_option(int option, int argc, char **argv, struct options *o)
{
	switch (option) {
	case 'w':
		return read_watch(argc, argv, o);
	case 'p':
		o->processes = true;
		return NULL;
	case 'i':
		o->has_interval = true;
		return text_seconds(optarg, 0, MAX_SECONDS, &o->seconds) ? NULL :
			"the SECONDS of -i must be a number from 0 to 86400";
	case 'c':
		return read_count(optarg, &o->count) ? NULL : "COUNT must be a number from 1 on";
	case 'n':
		return read_count(optarg, &o->lines) ? NULL : "LINES must be a number from 1 on";
	case 'J':
	case 'P':
		if (o->format != FORMAT_TEXT)
			return "one format is enough";
		o->format = option == 'J' ? FORMAT_JSON : FORMAT_PROMETHEUS;
		return NULL;
	default:
		return bad_option(option, argv);
	}
}

/* What does not go together; NULL if all is well. */
static const char *conflict(const struct options *o)
{
	if (o->watch && o->processes)
		return "-w and -p do not go together";
	if (o->watch && o->format != FORMAT_TEXT)
		return "-w knows no other format";
	if (o->processes && o->format == FORMAT_PROMETHEUS)
		return "-p and --prometheus do not go together";
	if (o->count && !o->watch)
		return "-c is for -w";
	if (o->lines && !o->processes)
		return "-n is for -p";
	if (o->has_interval && (o->watch || o->processes || o->format == FORMAT_PROMETHEUS))
		return "-i is for the page of figures and --json";
	return NULL;
}

static int show(const struct options *o)
{
	if (o->watch)
		return show_watch(o->seconds < 0 ? 2 : o->seconds, o->count);
	if (o->processes)
		return show_processes(o->lines ? o->lines : SIZE_MAX, o->format == FORMAT_JSON);
	if (o->format == FORMAT_JSON)
		return show_json(o->seconds < 0 ? 1 : o->seconds);
	if (o->format == FORMAT_PROMETHEUS)
		return show_prometheus();
	return show_report(o->seconds < 0 ? 1 : o->seconds);
}

static int command_set(int words, char **word)
{
	char *equals = words == 1 ? strchr(word[0], '=') : NULL;

	if (equals) {
		*equals = '\0';
		return control_set(word[0], equals + 1);
	}
	if (words != 2)
		return usage("set needs KEY VALUE, or KEY=VALUE");
	return control_set(word[0], word[1]);
}

/* Status 2 might be the program's own. */
static int command_run(int words, char **word)
{
	if (words && (!strcmp(word[0], "--help") || !strcmp(word[0], "-h")))
		return show_help();
	if (words && !strcmp(word[0], "--")) {
		words--;
		word++;
	} else if (words && word[0][0] == '-') {
		complain("run has no option '%s'; see 'ksmstat --help'", word[0]);
		return EXIT_RUN_FAILED;
	}
	if (words)
		return launch(word);
	usage("run needs a PROGRAM");
	return EXIT_RUN_FAILED;
}

/* @word[0] is the command. */
static int do_command(int words, char **word)
{
	static const char * const switches[] = {
		[RUN_OFF] = "off",
		[RUN_ON] = "on",
		[RUN_UNMERGE] = "unmerge",
	};
	bool force;

	if (!strcmp(word[0], "set"))
		return command_set(words - 1, word + 1);
	if (!strcmp(word[0], "run"))
		return command_run(words - 1, word + 1);
	for (int run = RUN_OFF; run <= RUN_UNMERGE; run++) {
		if (strcmp(word[0], switches[run]))
			continue;
		force = run == RUN_UNMERGE && words == 2 && !strcmp(word[1], "--force");
		return words == 1 || force ? control_switch(run, force) : usage("too many words");
	}
	complain("there is no command '%s'; see 'ksmstat --help'", word[0]);
	return EXIT_USAGE;
}

/* Output that is lost is a failure. */
static int finish(int status)
{
	if ((fflush(stdout) || ferror(stdout)) && !status) {
		complain("cannot write: %s", strerror(errno));
		return EXIT_FAILED;
	}
	return status;
}

int main(int argc, char **argv)
{
	static const struct option long_options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "json", no_argument, NULL, 'J' },
		{ "prometheus", no_argument, NULL, 'P' },
		{ }
	};
	struct options options = { .seconds = -1 };
	bool any = false;
	const char *wrong;
	int option;

	setlocale(LC_CTYPE, "");
	while ((option = getopt_long(argc, argv, "+:hw::pi:c:n:", long_options, NULL)) != -1) {
		if (option == 'h')
			return finish(show_help());
		wrong = take_option(option, argc, argv, &options);
		if (wrong)
			return usage(wrong);
		any = true;
	}
	if (optind < argc && any)
		return usage("a command takes no options");
	if (optind < argc)
		return finish(do_command(argc - optind, argv + optind));
	wrong = conflict(&options);
	return wrong ? usage(wrong) : finish(show(&options));
}
