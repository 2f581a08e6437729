"""Whether the API server, or an operator's custom resource definition, takes an object."""

import json
import pathlib

import jsonschema
import kubernetes_validate

SCHEMAS = {p.stem: json.loads(p.read_text()) for p in (pathlib.Path(__file__).parent / "schemas").glob("*.json")}


class Invalid(Exception):
    """It does not; the text says where and why."""


def validate(document, version):
    """Raises where an object is not valid for this version of Kubernetes."""
    try:
        if document["kind"] in SCHEMAS:
            jsonschema.validate(document, SCHEMAS[document["kind"]])
        else:
            kubernetes_validate.validate(document, version, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        where = ".".join(str(step) for step in getattr(error, "path", []))
        raise Invalid(f"{where}: {getattr(error, 'message', error)}".lstrip(": ")) from error
    except kubernetes_validate.SchemaNotFoundError as error:
        raise Invalid(f"no schema for {document['kind']} in Kubernetes {version}: a typo, or a kind to add to schemas/") from error
