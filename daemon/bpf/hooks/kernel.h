/* The few fields of the kernel's own structures that we read. The loader relocates them against the
 * running kernel's types, so only their names matter, not their order. */
#ifndef EGRESS_BPF_KERNEL_H
#define EGRESS_BPF_KERNEL_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
    unsigned int val;
} kuid_t;
typedef struct {
    unsigned int val;
} kgid_t;
struct qstr {
    __u32 len;
    const unsigned char* name;
};
struct dentry;
struct user_namespace;
struct super_block {
    __u32 s_dev;
    unsigned long s_magic;
    struct dentry* s_root;
    struct user_namespace* s_user_ns;
};
struct user_namespace {
    int level;
};
struct inode {
    struct super_block* i_sb;
    unsigned long i_ino;
    kuid_t i_uid;
    __u32 i_generation;
};
struct hlist_bl_node {
    struct hlist_bl_node** pprev;
};
struct dentry {
    struct hlist_bl_node d_hash;
    struct dentry* d_parent;
    struct qstr d_name;
    struct inode* d_inode;
};
struct vfsmount {
    struct dentry* mnt_root;
};
struct mnt_namespace;
struct mount {
    struct mount* mnt_parent;
    struct dentry* mnt_mountpoint;
    struct vfsmount mnt;
    struct mnt_namespace* mnt_ns;
};
struct cred;
struct path {
    struct vfsmount* mnt;
    struct dentry* dentry;
};
struct file {
    unsigned int f_mode;
    struct path f_path;
    struct inode* f_inode;
    const struct cred* f_cred;
};
struct fs_struct {
    struct path root;
};
struct ns_common {
    unsigned int inum;
};
struct mnt_namespace {
    struct ns_common ns;
};
struct pid_namespace {
    struct ns_common ns;
};
struct new_utsname {
    char nodename[65];
};
struct uts_namespace {
    struct new_utsname name;
};
struct net {
    struct user_namespace* user_ns;
    struct ns_common ns;
};
struct nsproxy {
    struct uts_namespace* uts_ns;
    struct mnt_namespace* mnt_ns;
    struct net* net_ns;
};
struct upid {
    int nr;
    struct pid_namespace* ns;
};
struct pid {
    unsigned int level;
    struct upid numbers[1];
};
typedef struct {
    int counter;
} atomic_t;
struct signal_struct {
    atomic_t live;
};
struct mm_struct {
    struct file* exe_file;
};
struct cred {
    kuid_t uid;
    kgid_t gid;
    struct user_namespace* user_ns;
};
struct kernfs_iattrs {
    kuid_t ia_uid;
    kgid_t ia_gid;
};
struct kernfs_node {
    const char* name;
    __u64 id;
    unsigned short mode;
    struct kernfs_iattrs* iattr;
};
struct cgroup_subsys_state {
    struct cgroup_subsys_state* parent;
};
struct cgroup {
    struct cgroup_subsys_state self;
    int level;
    struct kernfs_node* kn;
};
struct css_set {
    struct cgroup* dfl_cgrp;
};
struct thread_info {
    __u64 preempt_count; /* if it is not per CPU */
};
struct rq;
struct cfs_rq {
    struct rq* rq;
};
struct sched_entity {
    struct cfs_rq* cfs_rq;
};
struct task_struct {
    struct sched_entity se;
    struct thread_info thread_info;
    int softirq_disable_cnt; /* real-time kernels */
    const struct cred* cred;
    struct css_set* cgroups;
    int pid;
    int tgid;
    struct task_struct* real_parent;
    struct task_struct* group_leader;
    struct mm_struct* mm;
    struct fs_struct* fs;
    struct nsproxy* nsproxy;
    struct pid* thread_pid;
    struct signal_struct* signal;
    unsigned int flags;
    __u64 start_boottime;
    __u64 self_exec_id;
    char comm[16];
};
struct linux_binprm {
    struct file* file;
    const char* filename;
};
struct in6_addr {
    int opaque; /* only read as a whole */
};
typedef struct {
    struct net* net;
} possible_net_t;
struct sk_buff {
    unsigned int data_len;
    unsigned int end;
    unsigned char* head;
};
struct skb_shared_info {
    __u8 flags;
};
struct sock_common {
    possible_net_t skc_net;
    __u32 skc_daddr;
    __u16 skc_dport;
    unsigned short skc_family;
    volatile unsigned char skc_state;
    unsigned long skc_flags;
    struct in6_addr skc_v6_daddr;
};
enum sock_flags { SOCK_BROADCAST = 6 };
struct sock_cgroup_data {
    struct cgroup* cgroup;
};
struct sockaddr;
struct bpf_sock_addr_kern { /* what a struct bpf_sock_addr is to the kernel */
    struct sockaddr* uaddr;
    __u32 uaddrlen;
};
struct socket;
struct sock {
    struct sock_common __sk_common;
    struct sock_cgroup_data sk_cgrp_data;
    unsigned char sk_userlocks;
    unsigned char sk_kern_sock : 1;
    __u16 sk_type;
    kuid_t sk_uid;
    __u16 sk_protocol;
    struct socket* sk_socket;
};
struct socket {
    struct file* file;
    struct sock* sk;
};
struct inet_bind_bucket {
    signed char fastreuse;
};
struct inet_sock {
    struct sock sk;
};
struct inet_connection_sock {
    struct inet_sock icsk_inet;
    struct inet_bind_bucket* icsk_bind_hash;
};
struct tcp_sock {
    struct inet_connection_sock inet_conn;
    __u32 write_seq;
    __u32 snd_una;
    unsigned char is_mptcp;
};
struct mptcp_sock {
    struct inet_connection_sock sk;
    struct sock* first; /* subflow */
};

#pragma clang attribute pop

#endif
