"""Chooses where a slab lives."""

from __future__ import annotations

from elastic_embeddings.slabs.slab import Device, Slab, SlabSpec


def make_slab(spec: SlabSpec, device: Device | None = None) -> Slab:
    """Return an empty slab in host memory or in TensorFlow variables; None takes a GPU where TensorFlow sees one."""
    if device == "host" or (device is None and not _has_gpu()):
        from elastic_embeddings.slabs.host import HostSlab

        return HostSlab(spec)
    from elastic_embeddings.slabs.device import DeviceSlab

    return DeviceSlab(spec)


def _has_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
