package filter

import (
	"bytes"
	"net/netip"

	"yurt/internal/splice"
	"yurt/internal/wire"
)

// masterService: the Service of the API server is the hub. The kubelet makes the
// environment of new pods from its Services.
func (v *view) masterService() []byte {
	of := v.One(v.item, spec)
	ip := v.site.Hub[0]
	if old, err := netip.ParseAddr(v.Text(of, clusterIP)); err == nil {
		if like, ok := v.site.hubLike(old.Is4()); ok {
			ip = like
		}
	}
	var ports [][]byte
	for _, port := range v.Many(of, servicePorts) {
		ports = append(ports, v.With(port, portNumber, v.Write(int32(v.site.Port))))
	}
	of = v.With(of, servicePorts, ports...)
	of = v.With(of, clusterIP, v.Write(ip.String()))
	if len(v.Many(of, clusterIPs)) > 0 {
		of = v.With(of, clusterIPs, v.Write(ip.String()))
	}
	return v.With(v.item, spec, of)
}

const (
	hostVariable = "KUBERNETES_SERVICE_HOST"
	portVariable = "KUBERNETES_SERVICE_PORT"
)

// serviceEnv: a pod that says itself where the API server is, is led to the hub.
func (v *view) serviceEnv() []byte {
	if !bytes.Contains(v.item, []byte(hostVariable)) && !bytes.Contains(v.item, []byte(portVariable)) {
		return v.item
	}
	of := v.One(v.item, spec)
	for _, list := range []splice.Field{containers, initContainers, ephemeralContainers} {
		all := v.Many(of, list)
		if len(all) == 0 {
			continue
		}
		shown := make([][]byte, len(all))
		for i, container := range all {
			if list == ephemeralContainers && v.encoding == wire.Protobuf {
				shown[i] = v.With(container, ephemeralCommon, v.withHub(v.One(container, ephemeralCommon)))
			} else {
				shown[i] = v.withHub(container)
			}
		}
		of = v.With(of, list, shown...)
	}
	return v.With(v.item, spec, of)
}

// withHub changes the values in a container's environment. Who takes them from
// elsewhere has them changed there.
func (v *view) withHub(container []byte) []byte {
	all := v.Many(container, containerEnv)
	if len(all) == 0 {
		return container
	}
	shown := make([][]byte, len(all))
	for i, variable := range all {
		shown[i] = variable
		if v.Text(variable, envValue) == "" {
			continue
		}
		switch v.Text(variable, envName) {
		case hostVariable:
			shown[i] = v.With(variable, envValue, v.Write(v.site.Hub[0].String()))
		case portVariable:
			shown[i] = v.With(variable, envValue, v.Write(v.site.port()))
		}
	}
	return v.With(container, containerEnv, shown...)
}

// rootCA: pods trust the hub beside the API server.
func (v *view) rootCA() []byte {
	const key = "ca.crt"
	ca := v.site.CA()
	had, err := v.Label(v.item, data, key)
	v.Keep(err)
	if ca == nil || had == "" {
		return v.item
	}
	if had[len(had)-1] != '\n' {
		had += "\n"
	}
	shown, err := v.SetLabel(v.item, data, key, had+string(ca))
	v.Keep(err)
	return shown
}

// forwardSlice: what is sent to the Service of the API server goes to the hub.
func (v *view) forwardSlice() []byte {
	if v.label(serviceNameLabel) != "kubernetes" {
		return v.item
	}
	ip, ok := v.site.hubLike(v.Text(v.item, sliceAddressType) == "IPv4")
	if !ok {
		return v.item
	}
	var endpoint []byte
	if all := v.Many(v.item, sliceEndpoints); len(all) > 0 {
		endpoint = all[0]
	}
	var ports [][]byte
	for _, port := range v.Many(v.item, slicePorts) {
		ports = append(ports, v.With(port, portNumber, v.Write(int32(v.site.Port))))
	}
	item := v.With(v.item, sliceEndpoints, v.With(endpoint, addresses, v.Write(ip.String())))
	return v.With(item, slicePorts, ports...)
}

// forwardEndpoints is the same for those who read Endpoints.
func (v *view) forwardEndpoints() []byte {
	all := v.Many(v.item, subsets)
	if len(all) == 0 {
		return v.item
	}
	subset := all[0]
	var ports [][]byte
	for _, port := range v.Many(subset, subsetPorts) {
		ports = append(ports, v.With(port, endpointsNumber, v.Write(int32(v.site.Port))))
	}
	var address []byte
	if old := v.Many(subset, subsetReady); len(old) > 0 {
		address = old[0]
	}
	subset = v.With(subset, subsetReady, v.With(address, addressIP, v.Write(v.site.Hub[0].String())))
	return v.With(v.item, subsets, v.With(subset, subsetPorts, ports...))
}
