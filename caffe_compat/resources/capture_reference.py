#!/usr/bin/env python
# -*- coding: utf-8 -*-
# mypy: ignore-errors
# ruff: noqa: UP004, UP009, UP010, UP031, B904, RUF005 (Python 2.7 runs this too)
"""Record what a Caffe network computes, where that Caffe still runs.

This one file needs only your own pycaffe (any fork), numpy and h5py; it runs under Python 2.7 and 3.x. Copy it to the
machine that has the Caffe, and there:

    python capture_reference.py deploy.prototxt weights.caffemodel -o reference.h5

Every input is filled with seeded random numbers unless you give arrays of your own, which is better: real, preprocessed
images, and 0/1 where a network expects a sequence marker. A number fills the whole input:

    python capture_reference.py deploy.prototxt weights.caffemodel -o reference.h5 --input data=x.npy --input clip=1

Then bring reference.h5 to where caffe_compat is installed:

    caffe-compat convert deploy.prototxt weights.caffemodel -o model.pt --reference reference.h5
    caffe-compat verify model.pt --reference reference.h5

What the file holds (attribute version: 1): one group (--case, "net" unless told) with

    attributes          prototxt (the text that Caffe read), phase, type = "Net", source (versions), prototxt_sha256,
                        weights_sha256, input (how the inputs came about, to do it again), seed, range, batches, inputs,
                        outputs, blob_order (in execution order), layer_names, layer_types
    bottom/BLOB         the inputs, whole: the net's inputs and what data layers produced
    top/BLOB            the outputs, whole
    blob/BLOB           every blob, as the last layer that writes it left it
    param/LAYER/I       fingerprint of the weights used (whole with --params; so are param_after_forward, param_diff)
    param_after_forward/LAYER/I     only where the forward pass changed them
    layer_top/INDEX_LAYER/BLOB      with --every-layer: the tops of each layer just after it ran, so in-place steps too
    top_diff, bottom_diff, param_diff   with --gradients: the gradient given at each output (the loss weight for a
                        loss, seeded numbers otherwise), and what the backward pass made of it; the network is then
                        run with force_backward: true, or Caffe would leave most of them out

With --batches N > 1 all of these but `param` are in batch_0 ... batch_<N-1>; nothing is reset between batches, so
recurrent state carries over. A fingerprint stands for a big array: attributes mean_std_min_max and shape, datasets
`positions` (in the flat array) and `values`, and `data` if it is small; --sample N makes fingerprints of N values of
all blobs with more, weights too, but inputs and outputs stay whole. HDF5 gives "/" a meaning, so in keys it is
written %2F, % is %25, a name "." is %2E, an empty name is %, and the second layer of a name gets %23 and its number;
attribute `name` of every item is the true name. The Split layers that Caffe inserts by itself are left out. No host
name, user name or path goes into the file, except those in the network's own text.
"""

from __future__ import print_function

import argparse
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import zlib

SCRIPT = "capture_reference.py"
VERSION = 1  # of the file's layout
SAMPLE = None  # what --sample is without the option; `caffe-compat capture-script --sample N` prints N here
POSITIONS = 256  # sampled values in a fingerprint
SMALL = 4096  # a fingerprint of so few values also has them whole
UNTOUCHED = 2.0**100  # what a gradient holds that no layer wrote
NO_BACKWARD = ("Accuracy", "ArgMax", "Threshold")  # their backward pass aborts the process
SELF_SUFFICIENT = ("Input", "DummyData", "Parameter")  # layers without bottoms that read no data


class CaptureError(Exception):
    """Something the user can mend; its text is the one line they see."""


# ---------------------------------------------------------------- command line


class Parser(argparse.ArgumentParser):
    def error(self, message):
        complain(message)
        sys.exit(2)


def parse_arguments(arguments):
    parser = Parser(prog=SCRIPT, description="Record every blob of a Caffe network as HDF5.")
    add = parser.add_argument
    add("prototxt", help="the network")
    add("weights", help="its .caffemodel (or .caffemodel.h5)")
    add("-o", "--output", required=True, metavar="FILE.h5")
    add("--phase", choices=("test", "train"), default="test")
    add("--level", type=int, help="network level for include/exclude rules")
    add("--stage", action="append", default=[], help="network stage; may be repeated")
    add(
        "--input",
        action="append",
        default=[],
        metavar="BLOB=FILE.npy|NUMBER",
        help="fill an input with an array, or with one number; give it once, or once for each batch",
    )
    add("--seed", type=int, default=0, help="for inputs that are not given, gradients, and Caffe's own generator")
    add("--range", type=float, nargs=2, default=(-1.0, 1.0), metavar=("LOW", "HIGH"), help="of seeded inputs (-1 1)")
    add("--batches", type=int, default=1, metavar="N", help="forward passes, one after the other (1)")
    add("--gradients", action="store_true", help="run the backward pass too")
    add("--skip-backward", action="append", default=[], metavar="LAYER", help="a layer that has no backward pass")
    add("--blobs", metavar="A,B", help="record only these under blob/")
    add("--every-layer", action="store_true", help="record the tops of each layer as well")
    add("--params", action="store_true", help="record weights whole")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--whole", action="store_true", help="record every blob whole, however big")
    size.add_argument(
        "--fingerprint-above",
        type=int,
        default=1000000,
        metavar="N",
        help="blobs of more than N values are recorded as a fingerprint (1000000)",
    )
    size.add_argument(
        "--sample",
        type=int,
        default=SAMPLE,
        metavar="N",
        help="record no more than N values of each blob but inputs and outputs, which keeps large networks to a few MB",
    )
    add("--gpu", type=int, metavar="ID", help="run on this GPU (otherwise on the CPU)")
    add("--case", default="net", help="name of the group (net)")
    add("--verbose", action="store_true", help="let Caffe's log through")
    add("--part", help=argparse.SUPPRESS)  # the file that the inner process writes
    options = parser.parse_args(arguments)
    if options.batches < 1:
        parser.error("--batches must be at least 1")
    if options.sample is not None and options.sample < 1:
        parser.error("--sample must be at least 1")
    if options.fingerprint_above < 0:
        parser.error("--fingerprint-above must be 0 or more")
    if not 0 <= options.seed < 2**32 - 1:
        parser.error("--seed must be between 0 and 2**32 - 2")
    if not options.range[0] < options.range[1]:
        parser.error("--range needs a LOW below its HIGH")
    if options.case in ("", ".") or "/" in options.case:
        parser.error('--case must be a name without "/"')
    return options


def main(arguments):
    options = parse_arguments(arguments)
    try:
        if options.part:
            capture(options)
            return 0
        return supervise(options, arguments)
    except CaptureError as error:
        complain(error)
    except KeyboardInterrupt:
        complain("interrupted")
    except Exception as error:  # whatever a fork's pycaffe raises is one line too
        if options.verbose:
            raise
        complain("%s: %s" % (type(error).__name__, " ".join(str(error).split())))
    return 2


def complain(problem):
    print("%s: error: %s" % (SCRIPT, problem), file=sys.stderr)


def supervise(options, arguments):
    """Run the capture in a process of its own: Caffe ends its process on errors, and leaves no chance to tidy up."""
    for path in (options.prototxt, options.weights):
        if not os.path.isfile(path):
            raise CaptureError("%s: no such file" % path)
    folder = os.path.dirname(os.path.abspath(options.output))
    if not os.path.isdir(folder):
        raise CaptureError("%s: the folder to write into does not exist" % folder)
    if os.path.isdir(options.output):
        raise CaptureError("%s: this is a folder; -o names a file" % options.output)
    part = "%s.part-%d" % (os.path.abspath(options.output), os.getpid())
    command = [sys.executable, os.path.abspath(__file__)] + list(arguments) + ["--part", part]
    try:
        with tempfile.TemporaryFile() as log:
            status = subprocess.call(command, stderr=None if options.verbose else log)
            log.seek(0)
            lines = log.read().decode("utf-8", "replace").splitlines()
        if status == 0:
            replace(part, options.output)
            print("%s: written; next: caffe-compat verify model.pt --reference %s" % ((options.output,) * 2))
            return 0
    finally:
        for path in (part, network_copy(part)):
            if os.path.exists(path):
                os.remove(path)
    if not options.verbose:
        print(last_words(lines, status), file=sys.stderr)
    return 2


def last_words(lines, status):
    """The line that says why the inner process ended: our own, else Caffe's fatal one, else the last."""
    prefix = "%s: error: " % SCRIPT
    for line in reversed(lines):
        if line.startswith(prefix):
            return line
    for line in lines:
        if re.match(r"F\d{4,8} .*\] ", line):
            return "%sCaffe stopped: %s (--verbose shows its whole log)" % (prefix, line.split("] ", 1)[1].strip())
    spoken = [line.strip() for line in lines if line.strip()]
    return "%sthe capture ended with status %d: %s" % (prefix, status, spoken[-1] if spoken else "no message")


def replace(source, target):
    if hasattr(os, "replace"):
        os.replace(source, target)
        return
    if os.name == "nt" and os.path.exists(target):  # Python 2 on Windows cannot rename onto a file
        os.remove(target)
    os.rename(source, target)


# ---------------------------------------------------------------- the capture


def capture(options):
    """Load the network, run it, and write options.part."""
    caffe = import_modules()
    text = read_text(options.prototxt)
    path = options.prototxt
    if options.gradients:
        text = with_force_backward(text)
        path = network_copy(options.part)
        with open(path, "wb") as copy:
            copy.write(text.encode("utf-8"))
    net = load_net(caffe, path, options)
    layers = list_layers(net, text)
    inputs, outputs = list(net.inputs), list(net.outputs)
    given = read_given(options, inputs)
    order = own_blobs(net, layers)
    plan = Plan(options, layers, inputs, outputs, chosen_blobs(options.blobs, order))
    loss_weights = preset_gradients(net) if options.gradients else {}

    # "latest" lets attributes outgrow 64 KB: the names of a network with thousands of layers need it
    with h5py.File(options.part, "w", libver="latest") as out:
        case = out.create_group(to_text(options.case))
        for key, value in (
            ("prototxt", text),
            ("phase", options.phase.upper()),
            ("type", "Net"),
            ("source", describe_source(caffe, options)),
            ("prototxt_sha256", sha256(options.prototxt)),
            ("weights_sha256", sha256(options.weights)),
            ("input", describe_inputs(inputs, given, options)),
            ("key_escapes", "/ is %2F, % is %25, . alone is %2E, no name is %; attribute name holds the true name"),
        ):
            case.attrs[key] = to_text(value)
        out.attrs["source"] = case.attrs["source"]
        out.attrs["version"] = VERSION
        for key, names in (
            ("inputs", inputs),
            ("outputs", outputs),
            ("blob_order", order),
            ("layer_names", [layer.name for layer in plan.own_layers]),
            ("layer_types", [layer.type for layer in plan.own_layers]),
            ("stages", options.stage),
        ):
            put_names(case, key, names)
        if options.level is not None:
            case.attrs["level"] = options.level
        case.attrs["seed"] = options.seed
        case.attrs["range"] = np.array(options.range, dtype=np.float64)
        case.attrs["batches"] = options.batches

        record_params(case, "param", plan)
        digests = digest_params(plan)
        stream = np.random.RandomState(options.seed)
        gradient_stream = np.random.RandomState(options.seed + 1)
        for k in range(options.batches):
            group = case if options.batches == 1 else case.create_group("batch_%d" % k)
            fill_inputs(net, inputs, given, k, stream, options.range)
            for name in inputs:
                put(group.require_group("bottom"), name, values_of(net.blobs[name]))
            run_forward(net, plan, group)
            before, digests = digests, digest_params(plan)
            changed = [key for key in digests if digests[key] != before[key]]
            record_params(group, "param_after_forward", plan, only=changed)
            if options.gradients:
                run_backward(net, plan, group, loss_weights, gradient_stream)
    print("%d blobs of %d layers, %d forward pass(es)" % (len(order), len(plan.own_layers), options.batches))


class Plan(object):
    """What to run and what to record of it."""

    def __init__(self, options, layers, inputs, outputs, blobs):
        self.layers = layers
        self.own_layers = [layer for layer in layers if not layer.automatic]
        self.inputs, self.outputs, self.blobs = inputs, outputs, set(blobs)
        self.positions = POSITIONS
        self.limit = None if options.whole else options.fingerprint_above
        if options.sample is not None and not options.whole:
            self.limit = self.positions = options.sample
        self.whole_params = options.params
        self.every_layer = options.every_layer
        # a fork from before pycaffe told the tops of a layer: run the network in one go
        self.by_layer = all(layer.tops is not None for layer in layers)
        if self.every_layer and not self.by_layer:
            raise CaptureError("this pycaffe does not tell the tops of a layer, which --every-layer needs")
        names = [layer.name for layer in layers]
        for name in options.skip_backward:
            if name not in names:
                raise CaptureError("--skip-backward %s: no such layer" % name)
        self.no_backward = [
            layer.index for layer in layers if layer.type in NO_BACKWARD or layer.name in options.skip_backward
        ]
        self.last_writer = {}
        if self.by_layer:
            self.last_writer = {top: layer.index for layer in layers for top in layer.tops}


def run_forward(net, plan, group):
    """One forward pass; each blob is recorded when the last layer that writes it has run.

    Not at the end, because some blobs share memory: a Reshape's bottom changes when its top is changed in place, and
    forks that save memory reuse it everywhere.
    """

    def record(name):
        value = values_of(net.blobs[name])
        if name in plan.blobs:
            put(group.require_group("blob"), name, value, plan.limit, plan.positions)
        if name in plan.outputs:
            put(group.require_group("top"), name, value)

    recordable = plan.blobs | set(plan.outputs)
    if not plan.by_layer:
        net.forward()
        for name in net.blobs:
            if name in recordable:
                record(name)
        return
    for name in net.blobs:
        if name in recordable and name not in plan.last_writer:  # an input that is no layer's top
            record(name)
    position = 0
    for layer in plan.layers:
        net._forward(layer.index, layer.index)
        if layer.automatic:
            continue
        if layer.bottoms == [] and layer.type not in SELF_SUFFICIENT:
            for name in layer.tops:
                put(group.require_group("bottom"), name, values_of(net.blobs[name]))
        if plan.every_layer:
            steps = group.require_group("layer_top").create_group("%d_%s" % (position, escape(layer.name)))
            steps.attrs["layer"], steps.attrs["type"] = to_text(layer.name), to_text(layer.type)
            steps.attrs["index"] = position
            for name in layer.tops:
                put(steps, name, values_of(net.blobs[name]), plan.limit, plan.positions)
        for name in layer.tops:
            if name in recordable and plan.last_writer[name] == layer.index:
                record(name)
        position += 1


def run_backward(net, plan, group, loss_weights, stream):
    """One backward pass from every output, recorded under top_diff, bottom_diff and param_diff."""
    # HingeLoss keeps its margins in its bottom's diff between the two passes.
    kept = {name for layer in plan.layers if layer.type == "HingeLoss" for name in layer.bottoms or ()}
    for name in net.blobs:
        if name not in loss_weights and name not in kept:
            net.blobs[name].diff[...] = 0
    for layer in plan.layers:
        for blob in layer.blobs:
            blob.diff[...] = 0  # Caffe adds to these
    # An input that a layer changes in place has its gradient read by that layer; any other is only ever written.
    marked = [name for name in plan.inputs if plan.by_layer and only_read(plan, name) and name not in kept]
    for name in marked:
        net.blobs[name].diff[...] = UNTOUCHED
    for name in plan.outputs:
        if plan.last_writer.get(name) in plan.no_backward or name in plan.inputs:
            continue
        blob = net.blobs[name]
        if name in loss_weights:
            blob.diff[...] = loss_weights[name]
        else:
            blob.diff[...] = stream.uniform(-1, 1, blob.diff.shape)
        put(group.require_group("top_diff"), name, gradient_of(blob))
    if plan.no_backward:
        for layer in reversed(plan.layers):
            if layer.index not in plan.no_backward:
                net._backward(layer.index, layer.index)
    else:
        net._backward(len(plan.layers) - 1, 0)
    for name in plan.inputs:
        gradient = gradient_of(net.blobs[name])
        if name not in marked or not np.all(gradient == UNTOUCHED):
            put(group.require_group("bottom_diff"), name, gradient, plan.limit, plan.positions)
    record_params(group, "param_diff", plan, read=gradient_of)


def only_read(plan, name):
    writer = plan.last_writer.get(name)
    return writer is None or plan.layers[writer].type == "Input"


# ---------------------------------------------------------------- pycaffe, old and new


class Layer(object):
    """One layer of the net. tops and bottoms are blob names, or None where pycaffe does not tell."""

    def __init__(self, index, name, kind, blobs, tops, bottoms, automatic, occurrence):
        self.index, self.name, self.type, self.blobs = index, name, kind, blobs
        self.tops, self.bottoms = tops, bottoms
        self.automatic = automatic  # a Split that Caffe inserted
        self.key = escape(name) + ("%%23%d" % occurrence if occurrence else "")


def import_modules():
    """Import what only the inner process needs, and return pycaffe."""
    global h5py, np
    try:
        import h5py
        import numpy as np
    except ImportError as error:
        raise CaptureError("%s; numpy and h5py are needed beside pycaffe" % error)
    try:
        import caffe
    except ImportError as error:
        raise CaptureError("cannot import caffe (%s); add the python folder of your Caffe to PYTHONPATH" % error)
    if not hasattr(caffe, "Net"):
        raise CaptureError("the module caffe that Python finds is not pycaffe: it has no Net")
    return caffe


def load_net(caffe, path, options):
    if hasattr(caffe, "set_random_seed"):
        caffe.set_random_seed(options.seed)
    if options.gpu is not None:
        call_either("set_device", [caffe], options.gpu)
    mode = "set_mode_cpu" if options.gpu is None else "set_mode_gpu"
    phase = getattr(caffe, options.phase.upper(), None)
    if phase is None:  # before 2015 the phase was no argument
        if options.level is not None or options.stage:
            raise CaptureError("this pycaffe knows no level and no stage")
        call_either("set_phase_" + options.phase, [caffe], optional=True)
        net = caffe.Net(path, options.weights)
        call_either("set_phase_" + options.phase, [net], optional=hasattr(caffe, "set_phase_" + options.phase))
        call_either(mode, [caffe, net])
        return net
    call_either(mode, [caffe])
    if options.level is not None or options.stage:
        level = options.level or 0
        return caffe.Net(path, phase, level=level, stages=options.stage or None, weights=options.weights)
    try:
        return caffe.Net(path, options.weights, phase)
    except TypeError:  # Boost.Python's ArgumentError: a pycaffe that has dropped the older order
        return caffe.Net(path, phase, weights=options.weights)


def call_either(name, owners, *arguments, **keywords):
    """Call the function of the first owner that has it."""
    for owner in owners:
        if hasattr(owner, name):
            getattr(owner, name)(*arguments)
            return
    if not keywords.get("optional"):
        raise CaptureError("this pycaffe has no %s" % name)


def list_layers(net, text):
    names = list(net._layer_names)
    blob_names = list(net.blobs)
    # quoted in the text: a Split of the user's own, whatever its name
    written = set(re.findall(r'"([^"\n]*)"', text)) | set(re.findall(r"'([^'\n]*)'", text))
    seen = {}
    layers = []
    for i, name in enumerate(names):
        layer = net.layers[i]
        automatic = name.endswith("_split") and to_text(name) not in written
        layers.append(
            Layer(
                index=i,
                name=name,
                kind=getattr(layer, "type", "?"),
                blobs=list(layer.blobs),
                tops=connected(net, i, names, blob_names, "_top_ids", "top_names"),
                bottoms=connected(net, i, names, blob_names, "_bottom_ids", "bottom_names"),
                automatic=automatic,
                occurrence=seen.get(name, 0),
            )
        )
        seen[name] = seen.get(name, 0) + 1
    return layers


def connected(net, index, names, blob_names, ids, by_name):
    """Names of the blobs at one end of a layer, or None. By index where possible: layer names may repeat."""
    if hasattr(net, ids):
        return [blob_names[j] for j in getattr(net, ids)(index)]
    if hasattr(net, by_name) and len(set(names)) == len(names):
        return list(getattr(net, by_name)[names[index]])
    return None


def own_blobs(net, layers):
    """Blob names in execution order, less the copies NAME_0, NAME_1 ... that an automatic Split layer NAME makes."""
    automatic = {layer.name for layer in layers if layer.automatic}
    return [name for name in net.blobs if not (name.rpartition("_")[0] in automatic and name[-1].isdigit())]


def preset_gradients(net):
    """Blob name -> loss weight, which Caffe writes all over the gradient of a loss when it sets up."""
    preset = {}
    for name in net.blobs:
        gradient = gradient_of(net.blobs[name])
        if np.any(gradient != 0):
            preset[name] = gradient.flat[0]
    return preset


def values_of(blob):
    return np.array(blob.data, dtype=np.float32)


def gradient_of(blob):
    return np.array(blob.diff, dtype=np.float32)


# ---------------------------------------------------------------- inputs


def read_given(options, inputs):
    """Blob name -> its arrays or numbers, one for all batches or one per batch."""
    given = {}
    for text in options.input:
        name, separator, value = text.partition("=")
        if not separator:
            raise CaptureError("--input %s: write BLOB=FILE.npy or BLOB=NUMBER" % text)
        if name not in inputs:
            raise CaptureError("--input %s: the net's inputs are: %s" % (text, ", ".join(inputs) or "none"))
        given.setdefault(name, []).append(read_value(name, value))
    for name, values in given.items():
        if len(values) not in (1, options.batches):
            raise CaptureError("--input %s was given %d times for %d batches" % (name, len(values), options.batches))
    return given


def read_value(name, text):
    try:
        return float(text)
    except ValueError:
        pass
    try:
        array = np.load(text)
    except Exception as error:
        raise CaptureError("--input %s: cannot read %s as .npy: %s" % (name, text, " ".join(str(error).split())))
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise CaptureError("--input %s: %s does not hold one array of numbers" % (name, text))
    return array.astype(np.float32)


def fill_inputs(net, inputs, given, batch, stream, bounds):
    values = {}
    for name in given:
        values[name] = given[name][batch if len(given[name]) > 1 else 0]
    reshaped = False
    for name in inputs:
        blob = net.blobs[name]
        value = values.get(name)
        if isinstance(value, np.ndarray) and value.shape != blob.data.shape:
            try:
                blob.reshape(*value.shape)
            except Exception:
                raise CaptureError("--input %s: shape %s, the net wants %s" % (name, value.shape, blob.data.shape))
            reshaped = True
    if reshaped:
        net.reshape()
    for name in inputs:
        blob = net.blobs[name]
        value = values.get(name)
        blob.data[...] = stream.uniform(bounds[0], bounds[1], blob.data.shape) if value is None else value


def describe_inputs(inputs, given, options):
    parts = []
    seeded = [name for name in inputs if name not in given]
    if seeded:
        parts.append(
            "%s: rs = numpy.random.RandomState(%d); for each batch, for each of these in turn: "
            "rs.uniform(%r, %r, shape) as float32"
            % (", ".join(seeded), options.seed, options.range[0], options.range[1])
        )
    for name in inputs:
        if name in given:
            kinds = ["an array" if isinstance(value, np.ndarray) else repr(value) for value in given[name]]
            parts.append("%s: given: %s" % (name, ", ".join(kinds)))
    return "; ".join(parts) or "from the network's own data layers"


# ---------------------------------------------------------------- writing


def put(group, name, value, limit=None, positions=POSITIONS):
    """Write one array under its escaped name: whole, or as a fingerprint if it has more than `limit` values."""
    key = escape(name)
    if limit is None or value.size <= limit:
        item = group.create_dataset(key, data=value)
    else:
        item = group.create_group(key)
        put_fingerprint(item, value, name, positions)
    item.attrs["name"] = to_text(name)


def put_names(group, key, names):
    kind = h5py.special_dtype(vlen=type(b"".decode("ascii")))  # unicode in Python 2, str in 3
    group.attrs.create(key, [to_text(name) for name in names], dtype=kind, shape=(len(names),))


def put_fingerprint(group, value, name, count):
    flat = value.reshape(-1)
    exact = flat.astype(np.float64)
    if flat.size:
        group.attrs["mean_std_min_max"] = np.array([exact.mean(), exact.std(), exact.min(), exact.max()])
    group.attrs["shape"] = np.array(value.shape, dtype=np.int64)
    stream = np.random.RandomState(zlib.crc32(to_text(name).encode("utf-8")) & 0xFFFFFFFF)
    positions = (stream.uniform(size=count) * flat.size).astype(np.int64)[: flat.size]
    group.create_dataset("positions", data=positions)
    group.create_dataset("values", data=flat[positions])
    if flat.size <= min(SMALL, 16 * count):
        group.create_dataset("data", data=value)


def record_params(group, title, plan, only=None, read=values_of):
    """Write TITLE/LAYER/I for every blob of every layer, or for the (layer index, i) pairs in `only`."""
    for layer in plan.own_layers:
        for i, blob in enumerate(layer.blobs):
            if only is not None and (layer.index, i) not in only:
                continue
            folder = group.require_group(title).require_group(layer.key)
            folder.attrs["name"] = to_text(layer.name)
            if plan.whole_params:
                folder.create_dataset(str(i), data=read(blob))
            else:
                put_fingerprint(folder.create_group(str(i)), read(blob), "%s:%d" % (layer.name, i), plan.positions)


def digest_params(plan):
    return {
        (layer.index, i): hashlib.sha256(values_of(blob).tobytes()).hexdigest()
        for layer in plan.own_layers
        for i, blob in enumerate(layer.blobs)
    }


def escape(name):
    """A name as one HDF5 key; see the top of this file."""
    key = to_text(name).replace("%", "%25").replace("/", "%2F")
    return {"": "%", ".": "%2E"}.get(key, key)


def to_text(value):
    """Text of this Python: Python 2 and pycaffe speak bytes, HDF5 wants to know the encoding."""
    return decode(value) if isinstance(value, bytes) else value


def decode(data):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


# ---------------------------------------------------------------- files and descriptions


def read_text(path):
    with open(path, "rb") as source:
        return decode(source.read())


def network_copy(part):
    return part + ".prototxt"


def with_force_backward(text):
    """The network with force_backward on: without it Caffe computes no gradient that no loss needs."""
    tokens = re.compile(r"#[^\n]*|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\bforce_backward\s*:\s*\w+\s*[;,]?", re.DOTALL)
    without = tokens.sub(lambda match: "" if match.group().startswith("force_backward") else match.group(), text)
    return "force_backward: true\n" + without


def chosen_blobs(text, order):
    if text is None:
        return order
    chosen = [name for name in text.split(",") if name]
    for name in chosen:
        if name not in order:
            raise CaptureError("--blobs %s: no such blob; the net has: %s" % (name, ", ".join(order)))
    return chosen


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        for chunk in iter(lambda: source.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def describe_source(caffe, options):
    return "Caffe %s, %s, Python %s, numpy %s, h5py %s, %s %s" % (
        getattr(caffe, "__version__", "of unknown version"),
        "CPU" if options.gpu is None else "GPU",
        platform.python_version(),
        np.__version__,
        h5py.__version__,
        platform.system(),
        platform.machine(),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
