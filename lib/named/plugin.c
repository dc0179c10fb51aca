/*
 * named_egress.so: a query plugin for BIND that reports refused queries to egressd.
 *
 * It hooks the end of a query, the only hook that sees every refusal of a query: by allow-query,
 * allow-query-cache, allow-recursion and their "-on" forms, and for names that the server does not
 * serve. It observes and changes nothing. Other refusals of named (zone transfers, updates, a bad
 * TSIG, clients that no view matches) pass no hook.
 *
 * BIND does not keep its structures stable between releases, and a plugin that reads them wrongly
 * crashes named. So the plugin works only with the exact release whose headers it was built with;
 * with any other it logs an error and leaves named alone.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dlfcn.h>

#include <isc/buffer.h>
#include <isc/log.h>
#include <isc/result.h>
#include <isc/sockaddr.h>
#include <isc/util.h>

#include <isccfg/cfg.h>
#include <isccfg/grammar.h>

#include <dns/name.h>
#include <dns/rdatatype.h>
#include <dns/result.h>

#include <ns/client.h>
#include <ns/hooks.h>
#include <ns/log.h>
#include <ns/query.h>

#include "lib/named/reporter.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT ns_plugin_check_t plugin_check;
EXPORT ns_plugin_destroy_t plugin_destroy;
EXPORT ns_plugin_register_t plugin_register;
EXPORT ns_plugin_version_t plugin_version;

struct instance {
    struct named_reporter* reporter; /* NULL: this BIND is another release */
};

static cfg_clausedef_t parameter_clauses[] = {{"socket", &cfg_type_qstring, 0}, {NULL, NULL, 0}};
static cfg_clausedef_t* parameter_clausesets[] = {parameter_clauses, NULL};
static cfg_type_t parameter_type = {"named_egress-params", cfg_parse_mapbody, cfg_print_mapbody,
                                    cfg_doc_mapbody,       &cfg_rep_map,      parameter_clausesets};

static void say(isc_log_t* lctx, int level, const char* file, unsigned long line,
                const char* what) {
    isc_log_write(lctx, NS_LOGCATEGORY_GENERAL, NS_LOGMODULE_HOOKS, level,
                  "%s:%lu: named_egress: %s", file, line, what);
}

/* The file names of BIND's libraries contain the release. */
static bool is_our_release(isc_log_t* lctx, int level, const char* file, unsigned long line) {
    char text[512];
    const char* name = "unknown";
    Dl_info found;
    void* symbol = dlsym(RTLD_DEFAULT, "ns_hook_add");

    if (symbol != NULL && dladdr(symbol, &found) != 0 && found.dli_fname != NULL) {
        const char* slash = strrchr(found.dli_fname, '/');
        name = slash != NULL ? slash + 1 : found.dli_fname;
    }
    if (strcmp(name, EGRESS_BIND_LIBRARY) == 0) {
        return true;
    }
    snprintf(text, sizeof text,
             "reports nothing: built for " EGRESS_BIND_LIBRARY ", this is %s; build it again",
             name);
    say(lctx, level, file, line, text);
    return false;
}

/* Opens the reporter with the socket that the parameters name. */
static isc_result_t open_reporter(const char* parameters, const char* file, unsigned long line,
                                  isc_mem_t* mctx, isc_log_t* lctx,
                                  struct named_reporter** reporter) {
    isc_result_t result = ISC_R_SUCCESS;
    cfg_parser_t* parser = NULL;
    cfg_obj_t* map = NULL;
    const cfg_obj_t* socket = NULL;
    const char* path = NULL;
    isc_buffer_t buffer;

    if (parameters != NULL) {
        result = cfg_parser_create(mctx, lctx, &parser);
        if (result != ISC_R_SUCCESS) {
            return result;
        }
        isc_buffer_constinit(&buffer, parameters, strlen(parameters));
        isc_buffer_add(&buffer, strlen(parameters));
        result = cfg_parse_buffer(parser, &buffer, file, line, &parameter_type, 0, &map);
        if (result == ISC_R_SUCCESS && cfg_map_get(map, "socket", &socket) == ISC_R_SUCCESS) {
            path = cfg_obj_asstring(socket);
        }
    }
    if (result == ISC_R_SUCCESS) {
        *reporter = named_reporter_open(path);
        if (*reporter == NULL) {
            result = errno == ENOMEM ? ISC_R_NOMEMORY : ISC_R_RANGE;
            say(lctx, ISC_LOG_ERROR, file, line, strerror(errno));
        }
    }
    if (map != NULL) {
        cfg_obj_destroy(parser, &map);
    }
    if (parser != NULL) {
        cfg_parser_destroy(&parser);
    }
    return result;
}

static void report(struct named_reporter* reporter, const query_ctx_t* qctx) {
    ns_client_t* client = qctx->client;
    const isc_sockaddr_t* remote = ns_client_getsockaddr(client);
    const isc_sockaddr_t* local = ns_client_getdestaddr(client);
    char name[DNS_NAME_FORMATSIZE] = "?";
    char type[DNS_RDATATYPE_FORMATSIZE];
    char message[sizeof name + sizeof type + sizeof "named: refused: /"];
    enum named_way way = NAMED_DATAGRAM;

    if ((client->attributes & NS_CLIENTATTR_TCP) != 0) {
        way = NAMED_STREAM;
    } else if ((client->attributes & NS_CLIENTATTR_HAVECOOKIE) != 0) {
        way = NAMED_VERIFIED;
    }
    if (client->query.qname != NULL) {
        dns_name_format(client->query.qname, name, sizeof name);
    }
    dns_rdatatype_format(qctx->qtype, type, sizeof type);
    snprintf(message, sizeof message, "named: refused: %s/%s", name, type);
    (void)named_reporter_refused(reporter, way, &remote->type.sa, &local->type.sa, message);
}

static ns_hookresult_t query_done(void* hook_data, void* action_data, isc_result_t* result) {
    const query_ctx_t* qctx = hook_data;
    const struct instance* instance = action_data;

    UNUSED(result);
    if (qctx->result == DNS_R_REFUSED) {
        report(instance->reporter, qctx);
    }
    return NS_HOOK_CONTINUE;
}

isc_result_t plugin_register(const char* parameters, const void* cfg, const char* file,
                             unsigned long line, isc_mem_t* mctx, isc_log_t* lctx, void* actx,
                             ns_hooktable_t* hooktable, void** instp) {
    struct instance* instance;
    isc_result_t result = ISC_R_SUCCESS;

    UNUSED(cfg);
    UNUSED(actx);
    instance = calloc(1, sizeof *instance);
    if (instance == NULL) {
        return ISC_R_NOMEMORY;
    }
    *instp = instance;
    if (!is_our_release(lctx, ISC_LOG_ERROR, file, line)) {
        return ISC_R_SUCCESS; /* named must start even without the plugin */
    }
    result = open_reporter(parameters, file, line, mctx, lctx, &instance->reporter);
    if (result != ISC_R_SUCCESS) {
        plugin_destroy(instp);
        return result;
    }
    const ns_hook_t hook = {.action = query_done, .action_data = instance};
    ns_hook_add(hooktable, mctx, NS_QUERY_DONE_BEGIN, &hook);
    say(lctx, ISC_LOG_INFO, file, line, "refused queries are reported to egressd");
    return ISC_R_SUCCESS;
}

isc_result_t plugin_check(const char* parameters, const void* cfg, const char* file,
                          unsigned long line, isc_mem_t* mctx, isc_log_t* lctx, void* actx) {
    struct named_reporter* reporter = NULL;
    isc_result_t result;

    UNUSED(cfg);
    UNUSED(actx);
    if (!is_our_release(lctx, ISC_LOG_ERROR, file, line)) {
        return ISC_R_FAILURE; /* so that named-checkconf shows the mismatch */
    }
    result = open_reporter(parameters, file, line, mctx, lctx, &reporter);
    named_reporter_close(reporter);
    return result;
}

void plugin_destroy(void** instp) {
    struct instance* instance = *instp;

    *instp = NULL;
    named_reporter_close(instance->reporter);
    free(instance);
}

int plugin_version(void) {
    return NS_PLUGIN_VERSION;
}
