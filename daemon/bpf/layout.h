/* Included at the end of abi.h. */
#ifndef EGRESS_BPF_LAYOUT_H
#define EGRESS_BPF_LAYOUT_H

/* The layout that EGRESS_ABI stands for. Where one of these fails, raise EGRESS_ABI, and write the
 * new number and the new layout here. */
#ifdef __cplusplus
#define EGRESS_ASSERT(what) static_assert(what, "a change of layout needs another EGRESS_ABI")
#else
#define EGRESS_ASSERT(what) _Static_assert(what, "a change of layout needs another EGRESS_ABI")
#endif
#define EGRESS_LAYOUT 11
#define EGRESS_SIZE(type, size)                                                                    \
    EGRESS_ASSERT(EGRESS_LAYOUT == EGRESS_ABI && sizeof(struct type) == (size))
#define EGRESS_OFFSET(type, member, offset)                                                        \
    EGRESS_ASSERT(__builtin_offsetof(struct type, member) == (offset))
EGRESS_SIZE(egress_vector, 136);
EGRESS_SIZE(egress_file, 24);
EGRESS_SIZE(egress_window, 8);
EGRESS_SIZE(egress_rule, 144);
EGRESS_SIZE(egress_base, 1205312);
EGRESS_SIZE(egress_runs, 64);
EGRESS_SIZE(egress_names, 64);
EGRESS_SIZE(egress_grant, 32);
EGRESS_SIZE(egress_grants, 256);
EGRESS_SIZE(egress_resolver, 24);
EGRESS_SIZE(egress_prefix6, 20);
EGRESS_SIZE(egress_tree, 260);
EGRESS_SIZE(egress_path_rules, 8);
EGRESS_SIZE(egress_id_range, 8);
EGRESS_SIZE(egress_key6, 16);
EGRESS_SIZE(egress_key_command, 16);
EGRESS_SIZE(egress_subject, 152);
EGRESS_SIZE(egress_cgroup_key, 16);
EGRESS_SIZE(egress_named, 296);
EGRESS_SIZE(egress_process, 1592);
EGRESS_SIZE(egress_socket, 88);
EGRESS_SIZE(egress_writer, 96);
EGRESS_SIZE(egress_writers, 1552);
EGRESS_SIZE(egress_job, 56);
EGRESS_SIZE(egress_unix_name, 120);
EGRESS_SIZE(egress_unix_rule, 128);
EGRESS_SIZE(egress_flow, 32);
EGRESS_SIZE(egress_told_address, 32);
EGRESS_SIZE(egress_told, 1416);
EGRESS_SIZE(egress_event, 864);
EGRESS_SIZE(egress_fold_key, 40);
EGRESS_SIZE(egress_fold, 120);
EGRESS_SIZE(egress_config, 136);
EGRESS_OFFSET(egress_rule, flags, 12);
EGRESS_OFFSET(egress_rule, windows, 16);
EGRESS_OFFSET(egress_base, names_key, 72);
EGRESS_OFFSET(egress_base, refusals, 136);
EGRESS_OFFSET(egress_base, places, 680);
EGRESS_OFFSET(egress_base, resolved, 104);
EGRESS_OFFSET(egress_base, rules, 1088);
EGRESS_OFFSET(egress_base, protocols, 148544);
EGRESS_OFFSET(egress_base, ports, 156736);
EGRESS_OFFSET(egress_base, v4_top, 418880);
EGRESS_OFFSET(egress_base, v6_top, 943168);
EGRESS_OFFSET(egress_process, program, 16);
EGRESS_OFFSET(egress_process, ancestors, 40);
EGRESS_OFFSET(egress_process, flags, 436);
EGRESS_OFFSET(egress_process, job, 460);
EGRESS_OFFSET(egress_process, place, 464);
EGRESS_OFFSET(egress_process, path, 724);
EGRESS_OFFSET(egress_process, subjects, 984);
EGRESS_OFFSET(egress_socket, tgid, 32);
EGRESS_OFFSET(egress_socket, cgroup, 48);
EGRESS_OFFSET(egress_socket, named, 64);
EGRESS_OFFSET(egress_socket, job, 80);
EGRESS_OFFSET(egress_job, processes, 16);
EGRESS_OFFSET(egress_job, joined, 48);
EGRESS_OFFSET(egress_flow, port, 16);
EGRESS_OFFSET(egress_told, name, 136);
EGRESS_OFFSET(egress_event, flow, 48);
EGRESS_OFFSET(egress_event, action, 96);
EGRESS_OFFSET(egress_event, program, 112);
EGRESS_OFFSET(egress_event, comm, 520);
EGRESS_OFFSET(egress_event, path, 601);
EGRESS_OFFSET(egress_fold, program, 48);
EGRESS_OFFSET(egress_fold, comm, 96);
EGRESS_OFFSET(egress_config, monitor, 32);
EGRESS_OFFSET(egress_config, abi, 44);
EGRESS_OFFSET(egress_config, canary, 56);
EGRESS_OFFSET(egress_config, path_key, 88);
EGRESS_OFFSET(egress_config, dns_grace, 104);
EGRESS_OFFSET(egress_config, reads_names, 112);
EGRESS_OFFSET(egress_config, jobs, 116);
#undef EGRESS_OFFSET
#undef EGRESS_SIZE
#undef EGRESS_LAYOUT
#undef EGRESS_ASSERT

#endif
