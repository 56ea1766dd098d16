package cri

import (
	"context"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runtimeService is what clients of images ask of a runtime that has no containers. Whoever wants
// to run one is told that this is not implemented.
type runtimeService struct {
	runtime.UnimplementedRuntimeServiceServer
	version string
}

// kubeletAPI is the version that every runtime answers with; kubelet takes no other.
const kubeletAPI = "0.1.0"

// Version is the first that clients ask, and how they find out whether anybody is there.
func (r *runtimeService) Version(context.Context, *runtime.VersionRequest) (*runtime.VersionResponse, error) {
	return &runtime.VersionResponse{
		Version: kubeletAPI, RuntimeName: "stowage", RuntimeVersion: r.version, RuntimeApiVersion: "v1",
	}, nil
}

// Status says that no container can be run here, with the reason.
func (r *runtimeService) Status(context.Context, *runtime.StatusRequest) (*runtime.StatusResponse, error) {
	var list []*runtime.RuntimeCondition
	for _, kind := range []string{runtime.RuntimeReady, runtime.NetworkReady} {
		list = append(list, &runtime.RuntimeCondition{
			Type: kind, Reason: "ImagesOnly", Message: "stowage keeps images and runs no containers",
		})
	}
	return &runtime.StatusResponse{Status: &runtime.RuntimeStatus{Conditions: list}}, nil
}

// ListContainers is asked by clients that look for images in use: there are no containers.
func (r *runtimeService) ListContainers(context.Context, *runtime.ListContainersRequest) (*runtime.ListContainersResponse, error) {
	return &runtime.ListContainersResponse{}, nil
}

// ListPodSandbox is likewise empty.
func (r *runtimeService) ListPodSandbox(context.Context, *runtime.ListPodSandboxRequest) (*runtime.ListPodSandboxResponse, error) {
	return &runtime.ListPodSandboxResponse{}, nil
}
