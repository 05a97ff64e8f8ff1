// Package verify holds what is deployed against what is said of it: that the Helm chart renders the same objects as the kustomize
// base, and that every right which they give names the test that needs it. It is a module of its own, for Helm and kustomize bring
// more dependencies than all the rest.
package verify

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	name  = "yurt-controller-manager"
	base  = "../" + name
	chart = "../charts/" + name
	tests = "../../test/cloud"
)

// objects are what is deployed, by kind and name.
type objects map[string]map[string]any

func (o objects) add(t *testing.T, document string) {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal([]byte(document), &object); err != nil {
		t.Fatalf("read object: %v:\n%s", err, document)
	}
	if len(object) == 0 {
		return
	}
	metadata, _ := object["metadata"].(map[string]any)
	key := fmt.Sprint(object["apiVersion"], " ", object["kind"], " ", metadata["name"])
	if _, twice := o[key]; twice {
		t.Errorf("%s is there twice", key)
	}
	o[key] = object
}

// ofBase returns what the kustomize base renders.
func ofBase(t *testing.T, dir string) objects {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	all := objects{}
	for _, resource := range resources.Resources() {
		document, err := resource.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		all.add(t, string(document))
	}
	return all
}

// ofChart returns what the chart renders.
func ofChart(t *testing.T, namespace string, values map[string]any) objects {
	t.Helper()
	c, err := loader.LoadDir(chart)
	if err != nil {
		t.Fatal(err)
	}
	release := common.ReleaseOptions{Name: name, Namespace: namespace, Revision: 1, IsInstall: true}
	given, err := util.ToRenderValues(c, values, release, common.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Engine{Strict: true}.RenderWithContext(t.Context(), c, given)
	if err != nil {
		t.Fatal(err)
	}
	all := objects{}
	for _, content := range files {
		for document := range strings.SplitSeq(content, "\n---\n") {
			all.add(t, document)
		}
	}
	return all
}

func TestChartRendersTheBase(t *testing.T) {
	want := ofBase(t, base)
	if len(want) < 7 {
		t.Errorf("the base has %d objects: has it been read?", len(want))
	}
	if diff := cmp.Diff(want, ofChart(t, "kube-system", nil)); diff != "" {
		t.Errorf("objects (-base +chart):\n%s", diff)
	}
}

// TestChartInAnotherNamespace compares the chart with an overlay of the base: both have to follow with all that names a namespace.
func TestChartInAnotherNamespace(t *testing.T) {
	overlay := t.TempDir()
	above, err := filepath.Abs(base)
	if err != nil {
		t.Fatal(err)
	}
	below, err := filepath.Rel(overlay, above)
	if err != nil {
		t.Fatal(err)
	}
	content := "namespace: edge\nresources: [" + below + "]\nimages: [{name: " + name + ", newName: registry.example/yurt, newTag: v1}]\n"
	if err := os.WriteFile(filepath.Join(overlay, "kustomization.yaml"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	values := map[string]any{"image": map[string]any{"repository": "registry.example/yurt", "tag": "v1"}}
	if diff := cmp.Diff(ofBase(t, overlay), ofChart(t, "edge", values)); diff != "" {
		t.Errorf("objects (-overlay +chart):\n%s", diff)
	}
}

// TestChartTakesValues sets what values.yaml offers and nothing else does.
func TestChartTakesValues(t *testing.T) {
	flags := []any{"--log-format=json", "--kube-api-qps=500"}
	deployment := ofChart(t, "kube-system", map[string]any{
		"replicas": 3, "args": flags, "resources": map[string]any{"limits": map[string]any{"memory": "1Gi"}},
	})["apps/v1 Deployment "+name]
	spec := deployment["spec"].(map[string]any)
	container := spec["template"].(map[string]any)["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)
	got := []any{spec["replicas"], container["args"], container["resources"].(map[string]any)["limits"]}
	if diff := cmp.Diff([]any{float64(3), flags, map[string]any{"memory": "1Gi"}}, got); diff != "" {
		t.Errorf("replicas, flags, limits (-want +got):\n%s", diff)
	}
}

// TestRulesNameTheirTests reads the roles as text: above each rule there is a comment with a test that needs it, which exists. That
// the rule is needed is held by TestRolesAreWhatIsUsed, against the audit log of an API server.
func TestRulesNameTheirTests(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(base, "rbac.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(content), "*") {
		t.Error("there is a wildcard")
	}
	exist := testsIn(t, tests)
	named := regexp.MustCompile(`\bTest[A-Za-z]+`)
	var comment string
	rules := 0
	for number, line := range strings.Split(string(content), "\n") {
		switch {
		case strings.HasPrefix(line, "#"):
			comment += line
			continue
		case strings.HasPrefix(line, "- apiGroups:"):
			rules++
			found := named.FindAllString(comment, -1)
			if len(found) == 0 {
				t.Errorf("rbac.yaml:%d: no test is named that needs this rule", number+1)
			}
			for _, test := range found {
				if !exist[test] {
					t.Errorf("rbac.yaml:%d: there is no %s in test/cloud", number+1, test)
				}
			}
		}
		comment = ""
	}
	if rules < 9 {
		t.Errorf("%d rules: have they been read?", rules)
	}
}

func testsIn(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^func (Test[A-Za-z]+)\(t \*testing\.T\)`)
	names := map[string]bool{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range declared.FindAllStringSubmatch(string(content), -1) {
			names[match[1]] = true
		}
	}
	return names
}
