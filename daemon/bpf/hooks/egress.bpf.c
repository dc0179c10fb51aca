/* The kernel side: one object, so that its programs share their maps. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

struct task_struct;
struct seq_file;
struct bpf_iter_meta {
    struct seq_file* seq;
    __u64 seq_num;
} __attribute__((preserve_access_index));
struct bpf_iter__task {
    struct bpf_iter_meta* meta;
    struct task_struct* task;
} __attribute__((preserve_access_index));

struct file;
struct bpf_iter__task_file {
    struct bpf_iter_meta* meta;
    struct task_struct* task;
    __u32 fd;
    struct file* file;
} __attribute__((preserve_access_index));

struct bpf_map;
struct bpf_iter__bpf_map_elem {
    struct bpf_iter_meta* meta;
    struct bpf_map* map;
    void* key;
    void* value;
} __attribute__((preserve_access_index));

#include "answer.h"
#include "cgroups.h"
#include "container.h"
#include "daemon/bpf/abi.h"
#include "decide.h"
#include "family.h"
#include "files.h"
#include "flow.h"
#include "job.h"
#include "job_names.h"
#include "judge.h"
#include "maps.h"
#include "multipath.h"
#include "packet.h"
#include "question.h"
#include "receive.h"
#include "sender.h"
#include "socket.h"
#include "stream.h"
#include "tag.h"
#include "unfold.h"
#include "unix.h"
#include "writer.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
