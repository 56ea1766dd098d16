package cri_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stowage/stowage/internal/server/cri"
)

// Clients are told which program it is, and that it runs nothing.
func TestRuntime(t *testing.T) {
	n := newNode(t, cri.Options{Version: "1.2.3"})
	v, err := n.runtime.Version(t.Context(), &runtime.VersionRequest{})
	if err != nil || v.RuntimeName != "stowage" || v.RuntimeVersion != "1.2.3" || v.RuntimeApiVersion != "v1" || v.Version != "0.1.0" {
		t.Errorf("the version is %v, %v", v, err)
	}
	st, err := n.runtime.Status(t.Context(), &runtime.StatusRequest{})
	if err != nil || len(st.GetStatus().GetConditions()) != 2 {
		t.Fatalf("the status is %v, %v", st, err)
	}
	for _, c := range st.Status.Conditions {
		if c.Status || c.Message == "" {
			t.Errorf("it is ready to run containers: %v", c)
		}
	}
	if list, err := n.runtime.ListContainers(t.Context(), &runtime.ListContainersRequest{}); err != nil || len(list.Containers) != 0 {
		t.Errorf("the containers are %v, %v", list, err)
	}
	if list, err := n.runtime.ListPodSandbox(t.Context(), &runtime.ListPodSandboxRequest{}); err != nil || len(list.Items) != 0 {
		t.Errorf("the sandboxes are %v, %v", list, err)
	}
	if _, err := n.runtime.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("to run a sandbox gives %v", err)
	}
}
