// Which cgroup is a container's, by the path that leads to it.
#include <string>

#include <doctest/doctest.h>

#include "daemon/bpf/tables/native.h"

namespace egress::bpf {

namespace {

const std::string id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

} // namespace

TEST_CASE("cgroups of containers") {
    for (const std::string& path :
         {"/system.slice/docker-" + id + ".scope",
          "/docker/" + id,
          "/docker/" + id + "/init/deep",
          "/machine.slice/libpod-" + id + ".scope/container",
          "/libpod_parent/libpod-" + id,
          "/a.service/libpod-payload-" + id,
          "/x/crio-" + id + ".scope",
          "/crio-" + id,
          "/system.slice/cri-containerd-" + id + ".scope",
          "/default/" + id,
          "/user.slice/nerdctl-" + id + ".scope",
          std::string("/kubepods"),
          std::string("/kubepods/burstable/pod1-2/x"),
          std::string("/kubepods.slice"),
          std::string("/kubepods.slice/kubepods-pod1_2.slice/crio-conmon-1.scope"),
          std::string("/kubelet.slice/kubelet-kubepods.slice"),
          std::string("/kubelet.slice/kubelet-kubepods-burstable.slice/x"),
          std::string("/lxc.payload.name"),
          std::string("/lxc.payload/name/init.scope"),
          std::string("/lxc/101/ns"),
          std::string("/machine.slice/machine-box.scope/payload/x"),
          std::string("/machine.slice/systemd-nspawn@box.service/payload"),
          "/lxc.payload." + std::string(240, 'n')}) {
        CAPTURE(path);
        CHECK(is_in_container(path));
    }
}

TEST_CASE("cgroups of the host") {
    for (const std::string& path :
         {std::string(),
          std::string("/"),
          std::string("/system.slice/docker.service"),
          std::string("/system.slice/containerd.service"),
          std::string("/docker"),
          "/machine.slice/libpod-conmon-" + id + ".scope",
          "/crio-conmon-" + id + ".scope",
          "/docker-" + id.substr(1) + ".scope",
          "/docker-" + id + "0.scope",
          "/docker-" + id + ".service",
          "/docker-" + id + ".scope2",
          "/Docker-" + id + ".scope",
          "/" + id + "0",
          "/x" + id,
          "/docker-" + id.substr(1) + "A",
          "/docker-" + id.substr(1) + "g",
          std::string("/kubepodsx"),
          std::string("/kubelet.slice"),
          std::string("/xkubepods"),
          std::string("/lxc.monitor.name"),
          std::string("/lxcx"),
          std::string("/lxc.service"),
          std::string("/lxc.payloadx"),
          std::string("/machine.slice/machine-box.scope/supervisor"),
          std::string("/machine.slice/machine-qemu\\x2d1\\x2dguest.scope/libvirt/emulator"),
          std::string("/machine.slice/machine-box.scope"),
          std::string("/payload"),
          std::string("/machine.slice/payload"),
          std::string("/machine-box.scope/x/payload"),
          std::string("/user.slice/user-1000.slice"),
          "/docker-" + std::string(300, 'a')}) {
        CAPTURE(path);
        CHECK_FALSE(is_in_container(path));
    }
}

} // namespace egress::bpf
