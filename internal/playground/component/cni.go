package component

import "encoding/json"

// CNIConfig is the file that tells the container runtime how pods are connected.
const CNIConfig = "/etc/cni/net.d/10-playground.conflist"

// CNI is the network of a node's pods: each has a link of its own to the node, which routes.
type CNI struct {
	Subnet string // of the node's pods
}

// Config returns the configuration file.
func (c CNI) Config() []byte {
	type object = map[string]any
	data, err := json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       "playground",
		"plugins": []object{
			{
				"type": "ptp",
				"ipam": object{
					"type":   "host-local",
					"ranges": [][]object{{{"subnet": c.Subnet}}},
					"routes": []object{{"dst": "0.0.0.0/0"}},
				},
			},
			{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	}, "", "  ")
	if err != nil {
		panic("component: " + err.Error()) // maps and strings only
	}
	return append(data, '\n')
}
