/* What kernel and daemon share of names and of the answers that give them addresses: part of abi.h.
 */
#ifndef EGRESS_BPF_ANSWER_ABI_H
#define EGRESS_BPF_ANSWER_ABI_H

enum egress_resolved {
    EGRESS_LITERAL = 0,  /* no approved resolver has named the address */
    EGRESS_RESOLVED = 1, /* one has, and the answer is still good */
    EGRESS_DOUBTFUL = 2, /* one may have: there was no room to keep the answer */
};

/* An answer of an approved resolver: until that time an address has the name of that key. All
 * policies share the grants, which outlive a reload and a restart. */
struct egress_grant {
    __u8 address[16]; /* network byte order; IPv4 mapped */
    __u64 key;        /* egress_name_key(), or EGRESS_ANY_NAME */
    __u64 until;      /* boot clock; EGRESS_GRANT_WRITTEN: another CPU is writing it */
};
/* A set of grants. An address has two, which its hash chooses: names.h. A grant that has ended is
 * free, and no other is ever taken away. No user but root has more than its share of a set. */
#define EGRESS_GRANTS_WAYS 7
#define EGRESS_GRANTS_SHARE 3
#define EGRESS_GRANTS_SETS 16384
#define EGRESS_GRANT_WRITTEN (~0ULL)
struct egress_grants {
    __u64 doubt; /* until then, a grant of an address whose first set this is may be missing */
    /* From [1] on: for each grant a hash of the user who asked last; 0: root. */
    __u16 owners[EGRESS_GRANTS_WAYS + 1];
    __u64 zero;
    struct egress_grant each[EGRESS_GRANTS_WAYS];
};

/* How names bear upon one check. */
struct egress_naming {
    __u64 now; /* boot clock */
    /* By whose name the connection was let through before; 0: none. Then this name counts, if the
     * rules still have it, and no grant. */
    __u64 named;
    __u64 hash;     /* of the address */
    __u32 hits;     /* grants of the first set, bits 1 to 7, then of the second, 9 to 15 */
    __u32 resolved; /* egress_resolved */
    __u32 in_use;   /* 0: the policy has no names, and `rules` is all of them */
    __u32 own;      /* index: the rules for the address by itself */
    __u64 only; /* key of the one name of which there are rules here besides; 0: perhaps others */
    struct egress_vector rules; /* for the address by itself and by its names */
};

/* Where answers are accepted from. Key of the map `resolvers`; its value is 1. */
struct egress_resolver {
    __u8 address[16]; /* network byte order; IPv4 mapped */
    __u16 port;
    __u16 zeros[3];
};
#define EGRESS_MAX_RESOLVERS 64

/* What became of the questions and answers that the hooks read. */
enum egress_dns {
    EGRESS_DNS_ASKED = 0,      /* a question whose name some rule names was noted */
    EGRESS_DNS_READ = 1,       /* an answer to such a question was read */
    EGRESS_DNS_GRANTED = 2,    /* an address was granted, once for each name that rules name */
    EGRESS_DNS_NEGATIVE = 3,   /* an answer with an error, or without an address */
    EGRESS_DNS_TRUNCATED = 4,  /* an answer that is not whole: what it has is granted */
    EGRESS_DNS_PRIVATE = 5,    /* an address not granted, as it is private */
    EGRESS_DNS_UNASKED = 6,    /* an answer to no question: forged, or for no rule's name */
    EGRESS_DNS_LATE = 7,       /* after EGRESS_DNS_PATIENCE */
    EGRESS_DNS_REPEATED = 8,   /* the question had been answered */
    EGRESS_DNS_FORGOTTEN = 9,  /* a question was forgotten early: there were too many of a user */
    EGRESS_DNS_QUESTIONS = 10, /* not exactly one question */
    EGRESS_DNS_UNREADABLE = 11,
    EGRESS_DNS_CHAIN = 12,   /* more than EGRESS_DNS_CNAMES */
    EGRESS_DNS_STREAM = 13,  /* TCP: a part of a message was given up, as others needed the room */
    EGRESS_DNS_FULL = 14,    /* no room or no share left for a grant: refusals by name hold */
    EGRESS_DNS_BUSY = 15,    /* no memory to read it */
    EGRESS_DNS_DELAYED = 16, /* TCP: a segment was dropped, to come again when it can be read */
    EGRESS_DNS_UNTOLD = 17,  /* no room to tell the daemon the text of a name: struct egress_told */
    EGRESS_DNS_NOT_LISTED = 18, /* a question was refused: [dns] "queries listed" */
    EGRESS_DNS_OUTCOMES = 19,
};
#define EGRESS_DNS_CNAMES 32
#define EGRESS_DNS_PATIENCE 10000000000ULL /* for an answer */
#define EGRESS_DNS_LONGEST 86400ULL        /* a longer TTL counts as this, in seconds */

/* An answer that granted addresses, as text for people: no verdict depends on it. One of many
 * addresses is several of these. */
#define EGRESS_TOLD_KEYS 16
#define EGRESS_TOLD_ADDRESSES 32
#define EGRESS_TOLD_NAME 256
struct egress_told_address {
    __u8 address[16]; /* network byte order; IPv4 mapped */
    __u64 until;      /* of the grant, boot clock */
    __u32 keys;       /* bit i: granted by keys[i] */
    __u32 zero;
};
struct egress_told {
    __u32 keys_used;
    __u32 addresses_used;
    __u64 keys[EGRESS_TOLD_KEYS];
    __u8 name[EGRESS_TOLD_NAME]; /* labels as they were asked for; what follows has no meaning */
    struct egress_told_address addresses[EGRESS_TOLD_ADDRESSES]; /* only those used are sent */
};

#endif
