/* SPDX-License-Identifier: GPL-2.0-only */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM ksm

#if !defined(_TRACE_KSM_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_KSM_H

#include <linux/tracepoint.h>

/*
 * Names of events and fields are known to programs. Where a field speaks of an
 * rmap_item, it is the address of the page in the process's memory, in
 * ksm_remove_rmap_item its index in the anon_vma.
 */

DECLARE_EVENT_CLASS(ksm_pass,
	TP_PROTO(int seq, u32 rmap_entries),
	TP_ARGS(seq, rmap_entries),
	TP_STRUCT__entry(
		__field(int, seq)
		__field(u32, rmap_entries)
	),
	TP_fast_assign(
		__entry->seq = seq;
		__entry->rmap_entries = rmap_entries;
	),
	TP_printk("pass %d, %u page records", __entry->seq, __entry->rmap_entries)
);

/**
 * ksm_start_scan - a pass over all registered memory begins
 * @seq: how many passes were complete before
 * @rmap_entries: page records in use
 */
DEFINE_EVENT(ksm_pass, ksm_start_scan,
	TP_PROTO(int seq, u32 rmap_entries),
	TP_ARGS(seq, rmap_entries)
);

/**
 * ksm_stop_scan - a pass is complete
 * @seq: as at its start
 * @rmap_entries: page records in use
 */
DEFINE_EVENT(ksm_pass, ksm_stop_scan,
	TP_PROTO(int seq, u32 rmap_entries),
	TP_ARGS(seq, rmap_entries)
);

DECLARE_EVENT_CLASS(ksm_registration,
	TP_PROTO(void *mm),
	TP_ARGS(mm),
	TP_STRUCT__entry(
		__field(void *, mm)
	),
	TP_fast_assign(
		__entry->mm = mm;
	),
	TP_printk("mm=%p", __entry->mm)
);

/**
 * ksm_enter - a process takes part from now on
 * @mm: its mm
 */
DEFINE_EVENT(ksm_registration, ksm_enter,
	TP_PROTO(void *mm),
	TP_ARGS(mm)
);

/**
 * ksm_exit - a process's memory is going away
 * @mm: its mm
 */
DEFINE_EVENT(ksm_registration, ksm_exit,
	TP_PROTO(void *mm),
	TP_ARGS(mm)
);

/**
 * ksm_merge_one_page - a page was to become a merged one, or be replaced by
 *	the zero page
 * @pfn: of the page
 * @rmap_item: address of the page in the process
 * @mm: whose page
 * @err: 0, or why it was not done
 */
TRACE_EVENT(ksm_merge_one_page,
	TP_PROTO(unsigned long pfn, void *rmap_item, void *mm, int err),
	TP_ARGS(pfn, rmap_item, mm, err),
	TP_STRUCT__entry(
		__field(unsigned long, pfn)
		__field(void *, rmap_item)
		__field(void *, mm)
		__field(int, err)
	),
	TP_fast_assign(
		__entry->pfn = pfn;
		__entry->rmap_item = rmap_item;
		__entry->mm = mm;
		__entry->err = err;
	),
	TP_printk("pfn=%lu at=%#lx mm=%p err=%d", __entry->pfn,
		  (unsigned long)__entry->rmap_item, __entry->mm, __entry->err)
);

/**
 * ksm_merge_with_ksm_page - a page was to be merged with one that is shared
 * @ksm_page: the shared one
 * @pfn: of the page
 * @rmap_item: address of the page in the process
 * @mm: whose page
 * @err: 0, or why it was not done
 */
TRACE_EVENT(ksm_merge_with_ksm_page,
	TP_PROTO(void *ksm_page, unsigned long pfn, void *rmap_item, void *mm, int err),
	TP_ARGS(ksm_page, pfn, rmap_item, mm, err),
	TP_STRUCT__entry(
		__field(void *, ksm_page)
		__field(unsigned long, pfn)
		__field(void *, rmap_item)
		__field(void *, mm)
		__field(int, err)
	),
	TP_fast_assign(
		__entry->ksm_page = ksm_page;
		__entry->pfn = pfn;
		__entry->rmap_item = rmap_item;
		__entry->mm = mm;
		__entry->err = err;
	),
	TP_printk("pfn=%lu at=%#lx mm=%p with=%p err=%d", __entry->pfn,
		  (unsigned long)__entry->rmap_item, __entry->mm, __entry->ksm_page,
		  __entry->err)
);

/**
 * ksm_remove_ksm_page - nobody shares a page any more, or it is gone
 * @pfn: of the page
 */
TRACE_EVENT(ksm_remove_ksm_page,
	TP_PROTO(unsigned long pfn),
	TP_ARGS(pfn),
	TP_STRUCT__entry(
		__field(unsigned long, pfn)
	),
	TP_fast_assign(
		__entry->pfn = pfn;
	),
	TP_printk("pfn=%lu", __entry->pfn)
);

/**
 * ksm_remove_rmap_item - a process does not share a page any more
 * @pfn: of the page
 * @rmap_item: index of the page in its anon_vma
 * @mm: the process's mm
 */
TRACE_EVENT(ksm_remove_rmap_item,
	TP_PROTO(unsigned long pfn, void *rmap_item, void *mm),
	TP_ARGS(pfn, rmap_item, mm),
	TP_STRUCT__entry(
		__field(unsigned long, pfn)
		__field(void *, rmap_item)
		__field(void *, mm)
	),
	TP_fast_assign(
		__entry->pfn = pfn;
		__entry->rmap_item = rmap_item;
		__entry->mm = mm;
	),
	TP_printk("pfn=%lu index=%#lx mm=%p", __entry->pfn,
		  (unsigned long)__entry->rmap_item, __entry->mm)
);

/**
 * ksm_advisor - how fast the next pass will be
 * @scan_time: how long the last one took, in seconds
 * @pages_to_scan: pages between two sleeps from now on
 * @cpu_percent: CPU time of the last pass, in percent of one CPU
 */
TRACE_EVENT(ksm_advisor,
	TP_PROTO(s64 scan_time, unsigned long pages_to_scan, unsigned int cpu_percent),
	TP_ARGS(scan_time, pages_to_scan, cpu_percent),
	TP_STRUCT__entry(
		__field(s64, scan_time)
		__field(unsigned long, pages_to_scan)
		__field(unsigned int, cpu_percent)
	),
	TP_fast_assign(
		__entry->scan_time = scan_time;
		__entry->pages_to_scan = pages_to_scan;
		__entry->cpu_percent = cpu_percent;
	),
	TP_printk("pass took %lld s, pages_to_scan=%lu, cpu=%u%%",
		  __entry->scan_time, __entry->pages_to_scan, __entry->cpu_percent)
);

#endif /* _TRACE_KSM_H */

#include <trace/define_trace.h>
