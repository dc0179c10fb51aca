#!/bin/sh
# A complete firewall helper in shell, for egressd -C: one process per event, blocklistd's contract
# (egress-helper(7)). Each NAME has an nftables table of its own, inet shell.NAME.
set -eu
verb=$1 table="inet shell.$2" proto=${3-} addr=${4-} len=${5-} port=${6-}
if [ "$verb" = flush ]; then
    nft "add table $table; delete table $table"
    echo OK
    exit
fi
case $addr in *:*) ip=ip6 type=ipv6_addr ;; *) ip=ip type=ipv4_addr ;; esac
# Elements of one set must not overlap: all have the same length, and the same parts are "any".
set="$ip.$len.${proto:+proto}.${port:+port}"
key="$addr/$len . ${proto:-0-255} . ${port:-0-65535}"
nft list set "$table" "$set" >/dev/null 2>&1 || nft "add table $table
    add chain $table in { type filter hook prerouting priority raw; }
    add set $table $set { type $type . inet_proto . inet_service; flags interval, timeout; }
    add rule $table in $ip saddr . meta l4proto . th dport @$set ${EGRESS_ACTION:-drop}"
# Deleting what is not there is an error; adding what is there is none. In one transaction:
change="add element $table $set { $key }; delete element $table $set { $key }"
[ "${EGRESS_SECONDS:-*}" = '*' ] || key="$key timeout ${EGRESS_SECONDS}s"
[ "$verb" = rem ] || change="$change; add element $table $set { $key }"
nft "$change"
echo OK
